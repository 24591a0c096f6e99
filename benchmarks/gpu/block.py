"""A block: jobs that share a process and a time limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

Result = dict[str, Any]
Job = tuple[str, Callable[[], Result]]


@dataclass(frozen=True)
class Settings:
    """What a run is about.

    Attributes:
        device: ``"cuda"``, or ``"cpu"`` for a rehearsal.
        backends: our backends.
        small: a rehearsal: few and tiny shapes, so that every line runs on a machine without a GPU.
    """

    device: str
    backends: tuple[str, ...]
    small: bool = False

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"


@dataclass(frozen=True)
class Block:
    """Jobs that run one after the other in one process.

    ``jobs`` lists them: a name and a call whose result goes into the document. The call raises AssertionError for a
    wrong result, NotImplementedError when a backend refuses the call, :class:`Absent` when something is not there.

    Attributes:
        seconds: the most that all jobs together may take; what was done until then is kept.
        gpu_only: left out of a rehearsal.
        optional: a run is well without it.
        own_device: the jobs create tensors on the device unless they say otherwise.
        shards: so many processes share the jobs, because kernels are compiled when first called. Not for timings.
    """

    name: str
    seconds: float
    jobs: Callable[[Settings], Iterable[Job]]
    gpu_only: bool = False
    optional: bool = False
    own_device: bool = True
    shards: int = 1


class Absent(Exception):
    """A tool or a package that a job needs is not on this machine."""
