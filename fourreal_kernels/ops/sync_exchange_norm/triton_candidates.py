"""What ``fourreal tune`` measures of the fused exchange: the soft per-channel form on 8 x 8 frames of 576 tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..triton_cases import TuneTask
from ..triton_support import INTERPRETER
from ..triton_tuning import Typical, device, tasks

_EPS = 1e-6
_OPERATORS = torch.ops.fourreal_kernels


def tuning_candidates(arch: str) -> list[TuneTask]:
    """A task per bucket; a length is the number of channels."""
    # small enough for the interpreter, where the tests call these workloads
    rows = (1, 1, 2, 3) if arch == INTERPRETER else (1, 8, 8, 576)

    def forward(head_dim: int, length: int, dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
        both = 2 * length
        per_sample = [(rows[0], both)] * 5
        shapes = [*[(*rows, length)] * 4, (2, 2, length), (both,), *per_sample]
        tensors = [torch.randn(shape, device=device()).to(dtype) for shape in shapes]
        return lambda: _OPERATORS.sync_exchange_norm(*tensors, "soft", _EPS, "triton", False)

    return tasks("sync_exchange_norm", arch, forward, Typical(length=16 if arch == INTERPRETER else 1024))
