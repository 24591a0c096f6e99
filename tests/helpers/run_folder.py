"""A folder of one test run: what one of its processes builds there, the others take. It goes when the run ends.

The process that starts the run makes and removes it; the workers and the processes that tests start find it by an
environment variable, so no other run sees it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

_VARIABLE = "FOURREAL_TEST_RUN_FOLDER"


def open_run_folder() -> Callable[[], None]:
    """Make the folder, unless this process belongs to a run that has one; call the result at the end of the run."""
    if _VARIABLE in os.environ:
        return lambda: None
    folder = os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="fourreal_tests_")

    def close() -> None:
        del os.environ[_VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)

    return close


def run_folder() -> Path:
    return Path(os.environ[_VARIABLE])


def built_once(name: str, build: Callable[[Path], object]) -> Path:
    """The file ``name`` of the folder: ``build(path)`` of the process that asks first writes it, others wait for it."""
    import fcntl

    target, unfinished = run_folder() / name, run_folder() / f"unfinished.{name}"
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lifts it when the process ends, however it ends
        if not target.exists():
            build(unfinished)
            unfinished.rename(target)
    return target
