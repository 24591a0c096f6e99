"""Rendering of training scenes beside the training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import fourreal_kernels

from ..data.dataset import GridDataset

SCENES_PER_SHARD = 8
_POLL_SECONDS = 0.2


@contextmanager
def rendering(data: Path, seeds: Sequence[int], log: Path, **options) -> Iterator[subprocess.Popen | None]:
    """Render ``seeds`` into ``data`` in the background while the block runs; what is not done then is left out.

    Args:
        log: receives what the processes print.
        options: of :func:`fourreal_kernels.data.prerender.prerender`.
    """
    if not seeds:
        yield None
        return
    settings = {"out_dir": str(data), "seeds": list(seeds), "grids_per_shard": SCENES_PER_SHARD, **options}
    package = str(Path(fourreal_kernels.__file__).resolve().parents[1])
    search = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
    with open(log, "ab") as output:
        # A session of its own, so that an interrupt from the keyboard reaches the training only.
        process = subprocess.Popen(
            [sys.executable, "-m", "fourreal_kernels.cli.render_data"],
            stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
            env=os.environ | {"PYTHONPATH": search},
        )
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
        yield process
    finally:
        process.stdin.close()
        process.wait()


def wait_for_grids(process: subprocess.Popen, data: Path, seed: int, log: Path) -> None:
    """Wait until the scene ``seed`` is rendered.

    Raises:
        RuntimeError: the rendering has ended without it.
    """
    while True:
        ended = process.poll() is not None
        if data.is_dir() and seed in GridDataset(data).seeds:
            return
        if ended:
            raise RuntimeError(f"rendering ended with status {process.returncode}; {log} says why")
        time.sleep(_POLL_SECONDS)
