"""Measures the candidate configurations of a kernel and keeps the fastest, for ``fourreal tune``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import tuning
from .triton_cases import TuneTask

# A configuration replaces the shipped one only if it is faster by more than repeated measurements differ.
_LEAST_GAIN = 0.02

Timer = Callable[[Callable[[], object]], float]
Config = dict[str, int]


@dataclass(frozen=True)
class Outcome:
    """What was measured of one task: seconds of the shipped configuration and of the best one.

    ``refused`` counts the candidates that could not be launched.
    """

    task: TuneTask
    shipped_seconds: float
    config: Config
    seconds: float
    tried: int
    refused: int

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
    shipped_seconds = timer(lambda: launch(shipped))
    best, least, refused = shipped, shipped_seconds * (1 - _LEAST_GAIN), 0
    seconds = shipped_seconds
    others = [config for config in task.candidates if config != shipped]
    for config in others:
        try:
            taken = timer(lambda config=config: launch(config))
        except Exception:  # it needs more registers or shared memory than the chip has
            refused += 1
            continue
        if taken < least:
            best, seconds, least = config, taken, taken
    return Outcome(task, shipped_seconds, best, seconds, len(others), refused)
