"""Candidate configurations of a kernel, and which of them is the fastest, for ``fourreal tune``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import tuning
from .triton_cases import TuneTask
from .triton_support import INTERPRETER, interpreting

# A configuration replaces the shipped one only if it is faster by more than repeated measurements differ.
_LEAST_GAIN = 0.02

# A result further than this from that of the shipped configuration, relative to its largest value, is wrong.
_TOLERANCE = 2e-2
_ANY = (0, 2**31 - 1)
_MOST_WARPS, _MOST_STAGES = 16, 6
_SWITCHES = ("DESCRIPTORS", "SPLIT")

Timer = Callable[[Callable[[], object]], float]
Config = dict[str, int]
# head dim, length, dtype -> a call of the operator
Workload = Callable[[int, int, torch.dtype], Callable[[], Sequence[Tensor]]]


@dataclass(frozen=True)
class Typical:
    """Sizes that are measured where a bucket contains them; else its largest head dim and its nearest length are."""

    head_dim: int = 64
    length: int = 1024


def tasks(kernel: str, arch: str, workload: Workload, typical: Typical) -> list[TuneTask]:
    """A task per bucket that ``kernel`` ships for ``arch``: its configuration and those next to it."""
    return [_task(kernel, entry, workload, typical) for entry in tuning.shipped_entries(kernel, arch)]


def device() -> torch.device:
    """Where the inputs of the candidates lie: the current GPU, the CPU under the interpreter."""
    return torch.device("cpu" if interpreting() else "cuda")


def neighbours(config: Config) -> list[Config]:
    """Configurations one step away: a block, the warps or another count doubled or halved, a stage more or less.

    Blocks are also changed together with the warps.
    """
    found = [config | {name: value} for name in config for value in _steps(name, config[name])]
    for name in config:
        if name not in ("num_warps", "num_stages", *_SWITCHES):
            for factor in (2, 0.5):
                both = {key: int(config[key] * factor) for key in (name, "num_warps")}
                if 1 <= both["num_warps"] <= _MOST_WARPS and both[name] >= 1:
                    found.append(config | both)
    return found


def _steps(name: str, value: int) -> list[int]:
    if name in _SWITCHES:
        return [1 - value]
    if name == "num_stages":
        return [stages for stages in (value - 1, value + 1) if 1 <= stages <= _MOST_STAGES]
    most = _MOST_WARPS if name == "num_warps" else value * 2
    return [step for step in (value // 2, value * 2) if 1 <= step <= most]


def _task(kernel: str, entry: dict[str, Any], workload: Workload, typical: Typical) -> TuneTask:
    head_dims, lengths = (tuple(entry.get(name, _ANY)) for name in ("head_dim", "length"))
    dtype_bytes = entry.get("dtype_bytes", 2)
    dtype = torch.float32 if dtype_bytes == 4 or entry["arch"] == INTERPRETER else torch.bfloat16

    def make() -> Callable[[Config], Sequence[Tensor]]:
        head_dim = typical.head_dim if head_dims[0] <= typical.head_dim <= head_dims[1] else head_dims[1]
        run = workload(head_dim, min(max(typical.length, lengths[0]), lengths[1]), dtype)

        def launch(config: Config) -> Sequence[Tensor]:
            with tuning.forced(kernel, config):
                return run()

        return launch

    return TuneTask(kernel, head_dims, lengths, dtype_bytes, neighbours(entry["config"]), make)


@dataclass(frozen=True)
class Outcome:
    """What was measured of one task: seconds of the shipped configuration and of the best one.

    ``refused`` counts the candidates that do not fit the chip, ``wrong`` those with other results.
    """

    task: TuneTask
    shipped_seconds: float
    config: Config
    seconds: float
    tried: int
    refused: int
    wrong: int

    def entry(self, arch: str, **origin: Any) -> dict[str, Any]:
        """The entry of the user's file, see :mod:`fourreal_kernels.tuning`; ``origin`` is kept beside it."""
        return {
            "arch": arch,
            "head_dim": list(self.task.head_dim),
            "length": list(self.task.length),
            "dtype_bytes": self.task.dtype_bytes,
            "config": self.config,
            "microseconds": round(1e6 * self.seconds, 2),
            "shipped_microseconds": round(1e6 * self.shipped_seconds, 2),
        } | origin


def measure(task: TuneTask, arch: str, timer: Timer) -> Outcome:
    """Time the shipped configuration and every candidate of ``task`` with ``timer(run) -> seconds``.

    Raises:
        LookupError: the kernel ships no configuration for ``arch``.
        Exception: what the launch with the shipped configuration raises.
    """
    shipped = tuning.config(
        task.kernel, arch=arch, head_dim=task.head_dim[1], length=task.length[1], dtype_bytes=task.dtype_bytes
    )
    launch = task.make()
    expected = [x.clone() for x in launch(shipped)]
    best, seconds = shipped, timer(lambda: launch(shipped))
    shipped_seconds, least = seconds, seconds * (1 - _LEAST_GAIN)
    refused = wrong = 0
    others = [config for config in task.candidates if config != shipped]
    for config in others:
        try:
            if not _agree(launch(config), expected):
                wrong += 1
                continue
            taken = timer(lambda config=config: launch(config))
        except Exception:  # it needs more registers or shared memory than the chip has
            refused += 1
            continue
        if taken < least:
            best, seconds, least = config, taken, taken
    return Outcome(task, shipped_seconds, best, seconds, len(others), refused, wrong)


def _agree(results: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """False also for NaN."""
    return all(
        bool((got.float() - want.float()).abs().max() <= _TOLERANCE * want.float().abs().max())
        for got, want in zip(results, expected, strict=True)
    )
