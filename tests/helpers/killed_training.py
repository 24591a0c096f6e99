"""Trains in forked processes and kills them; run as a program, which fails where a run does not go on as it should.

``killed_training.py FOLDER operations``: once before every file operation in the run's folder, and once in the middle
of every safetensors file. ``killed_training.py FOLDER moments``: again and again after random delays.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path

import safetensors.torch
import torch

from fourreal_kernels.data import render_shard
from fourreal_kernels.model import load_model
from fourreal_kernels.training import Phase
from fourreal_kernels.training.state import has_state, saved_progress
from tiny_training import VIEWS, quiet_train, tiny_recipe

RECIPE = tiny_recipe(Phase("first"), Phase("second", random_mask=1.0))
_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate"}


def _fork(work: Callable[[], None]) -> int:
    """Run ``work`` in a process of its own, which has not used torch before; its id."""
    process = os.fork()
    if process:
        return process
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _ended(process: int) -> bool:
    """Whether it ended by itself, well; False when it was killed."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, -signal.SIGKILL), f"exit status {code}"
    return code == 0


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _train(folder: Path, out: Path, steps: int) -> None:
    quiet_train(RECIPE, folder / "data", out, steps=steps, save_minutes=0.0)


def _train_until(folder: Path, out: Path, steps: int, operation: int) -> None:
    """Train and die at the file operation of this number."""
    done = count()
    write = safetensors.torch.save_file

    def watch(event: str, arguments: tuple) -> None:
        if event in _OPERATIONS and str(arguments[0]).startswith(str(out)) and next(done) == operation:
            _die()

    def save_file(tensors, path, metadata=None) -> None:
        write(tensors, path, metadata)
        if next(done) == operation:
            with open(path, "r+b") as file:
                file.truncate(Path(path).stat().st_size // 2)
            _die()

    safetensors.torch.save_file = save_file
    sys.addaudithook(watch)
    _train(folder, out, steps)


def _check_whole(out: Path) -> None:
    """What is there can be read."""
    if (out / "model").exists():
        assert load_model(out / "model").config == RECIPE.model
    if has_state(out):
        assert saved_progress(out)["step"] >= 1


def _check_resumes(folder: Path, out: Path, steps: int) -> None:
    """The run goes on to the weights of one that was not killed."""
    _check_whole(out)
    _train(folder, out, steps)
    assert saved_progress(out)["step"] == steps
    weights = (load_model(path / "model").state_dict() for path in (out, folder / "expected"))
    for (name, got), expected in zip(*(x.items() for x in weights), strict=True):
        assert torch.equal(got, expected[1]), name


def _operations(folder: Path, steps: int = 2) -> int:
    """Kill before every operation; returns their number."""
    for operation in count():
        out = folder / f"out_{operation}"
        if _ended(_fork(lambda o=out, n=operation: _train_until(folder, o, steps, n))):
            return operation
        assert _ended(_fork(lambda o=out: _check_resumes(folder, o, steps)))


def _moments(folder: Path, steps: int = 12, kills: int = 12) -> int:
    """Kill the same run after random delays; returns how often it was."""
    delays, out, killed = random.Random(0), folder / "out", 0
    for _ in range(kills):
        process = _fork(lambda: _train(folder, out, steps))
        time.sleep(delays.uniform(0.02, 0.5))
        os.kill(process, signal.SIGKILL)
        killed += not _ended(process)
        assert _ended(_fork(lambda: _check_whole(out)))
    assert _ended(_fork(lambda: _check_resumes(folder, out, steps)))
    return killed


def _main() -> None:
    torch.set_num_threads(1)
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    steps = {"operations": 2, "moments": 12}[kind]
    options = {"size": 16, "views": VIEWS, "times": VIEWS, "light_samples": 0}
    assert _ended(_fork(lambda: render_shard(folder / "data" / "a.safetensors", range(5), **options)))
    assert _ended(_fork(lambda: _train(folder, folder / "expected", steps)))
    print({"operations": _operations, "moments": _moments}[kind](folder, steps))


if __name__ == "__main__":
    _main()
