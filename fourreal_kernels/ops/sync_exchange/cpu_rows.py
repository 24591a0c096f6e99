"""Arguments of the compiled CPU kernels: tensors as (address, strides), parameters as addresses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .compiled import address, as_accumulated

DTYPE_NAMES = {
    torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"
}

SCRATCH_BYTES = 8 << 20
FEWEST_ROWS = 64
"""A matrix product of fewer rows is far below the speed of longer ones."""


def tensor_argument(x: Tensor) -> tuple[int, tuple[int, ...]]:
    return x.data_ptr(), x.stride()


def row_count(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def chunks(span: tuple[int, int], columns: int, dtype: torch.dtype) -> list[tuple[int, int]]:
    """Equal ranges of the rows of a span, whose scratch of ``columns`` numbers per row fits SCRATCH_BYTES."""
    first, last = span
    most = max(FEWEST_ROWS, SCRATCH_BYTES // (columns * dtype.itemsize))
    count = -(-(last - first) // most)
    length = -(-(last - first) // count)
    return [(begin, min(last, begin + length)) for begin in range(first, last, length)]


@dataclass
class NormParameters:
    """What the fused form adds to an exchange, parameters in the accumulation dtype."""

    view_branch: Tensor
    time_branch: Tensor
    view_norm: Tensor
    time_norm: Tensor
    branch_gate: Tensor | None
    norm_scale: Tensor
    norm_shift: Tensor
    eps: float

    def __post_init__(self) -> None:
        self.branch_gate, self.norm_scale, self.norm_shift = (
            as_accumulated(x) for x in (self.branch_gate, self.norm_scale, self.norm_shift)
        )

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.view_branch, self.time_branch, self.view_norm, self.time_norm

    def argument(self, tensors: tuple[Tensor, ...]) -> tuple:
        """For the kernels, with grids of (parts of) the four tensors."""
        parameters = (self.branch_gate, self.norm_scale, self.norm_shift)
        return *(tensor_argument(x) for x in tensors), *(address(x) for x in parameters), self.eps
