"""Arguments of the compiled CPU kernels, and the chunks of rows in which dense products are computed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DTYPE_NAMES = {
    torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"
}

SCRATCH_BYTES = 8 << 20
FEWEST_ROWS = 64
"""A matrix product of fewer rows is far below the speed of longer ones."""


def row_count(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def chunks(span: tuple[int, int], columns: int, dtype: torch.dtype) -> list[tuple[int, int]]:
    """Equal ranges of the rows of a span, whose scratch of ``columns`` numbers per row fits SCRATCH_BYTES."""
    first, last = span
    most = max(FEWEST_ROWS, SCRATCH_BYTES // (columns * dtype.itemsize))
    count = -(-(last - first) // most)
    length = -(-(last - first) // count)
    return [(begin, min(last, begin + length)) for begin in range(first, last, length)]


class NormParameters(NamedTuple):
    """What the fused form adds to an exchange, in the order of the kernels; parameters in the accumulation dtype."""

    view_branch: Tensor
    time_branch: Tensor
    view_norm: Tensor
    time_norm: Tensor
    branch_gate: Tensor | None
    norm_scale: Tensor
    norm_shift: Tensor
    eps: float
