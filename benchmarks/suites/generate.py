"""``fourreal generate`` on the bundled sample, end to end: each call is a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..case import Case, Context, Provider, Results, Workload
from ..check import Deviation

PEER = "plain with sdpa"
_ROOT = Path(__file__).parents[2]
_QUICK_STEPS = 1
# Frames are 8-bit and sums are ordered differently: a few values may round to the neighbouring level.
_LEVELS_APART = 2
# Plain PyTorch operators, with its fused attention where an operator has that backend.
_PLAIN = """
import sys
from fourreal_kernels import use_backend
from fourreal_kernels.cli import main
with use_backend("reference"), use_backend("sdpa"):
    sys.exit(main(sys.argv[1:]))
"""
_DEFAULT = "import sys; from fourreal_kernels.cli import main; sys.exit(main(sys.argv[1:]))"


def cases(quick: bool) -> Iterator[Case]:
    steps = _QUICK_STEPS if quick else None
    yield Case(
        suite="generate", op="fourreal generate", sizes={"steps": steps} if steps else {}, variant="bundled sample",
        output="files", main_peer=PEER, build=lambda context: _build(context, steps),
    )


class _Process:
    """Runs the command in a process; keeps the seconds of its stages."""

    def __init__(self, code: str, context: Context, steps: int | None):
        self._code, self._context, self._steps = code, context, steps
        self.stages: dict[str, float] = {}

    def __call__(self) -> Results:
        with tempfile.TemporaryDirectory() as folder:
            self._run(folder)
            self.stages = json.loads((Path(folder) / "run.json").read_text())["seconds"]
            with np.load(Path(folder) / "grid.npz") as grid:
                return (torch.from_numpy(grid["frames"]),)

    def _run(self, folder: str) -> None:
        command = [sys.executable, "-c", self._code, "generate", "--out", folder, "--device", str(self._context.device)]
        if self._steps:
            command += ["--steps", str(self._steps)]
        threads = str(torch.get_num_threads())
        paths = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": threads}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-200:]}")


def _build(context: Context, steps: int | None) -> Workload:
    expected: list[Tensor] = []

    def check(results: Results) -> Deviation:
        """Levels of 8-bit frames from the first results, which are those of the plain operators."""
        expected.extend(() if expected else results)
        if results[0].shape != expected[0].shape:
            raise ValueError(f"frames: got {tuple(results[0].shape)}, expected {tuple(expected[0].shape)}")
        levels = (results[0].int() - expected[0].int()).abs().max().item()
        return Deviation(float(levels), 0.0 if levels <= _LEVELS_APART else float("inf"))

    plain, ours = _Process(_PLAIN, context, steps), _Process(_DEFAULT, context, steps)
    providers = [
        Provider(name, process, process=True, stages=lambda process=process: {"generate": process.stages["generate"]})
        for name, process in ((PEER, plain), ("ours:auto", ours))
    ]
    return Workload(check, providers)
