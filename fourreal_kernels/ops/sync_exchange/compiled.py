"""What the compiled backends share: streams as grids, and parameters in the accumulation dtype."""

from __future__ import annotations

from torch import Tensor

from ..checks import accumulation_dtype

GRID_DIMS = 5


def as_grid(x: Tensor) -> Tensor:
    """``(B, ..., C)`` of up to five dims as five, without a copy."""
    return x if x.ndim == GRID_DIMS else x[(slice(None), *[None] * (GRID_DIMS - x.ndim))]


def as_accumulated(x: Tensor | None) -> Tensor | None:
    """Parameters are small: the kernels read them contiguous in the accumulation dtype."""
    if x is None:
        return None
    dtype = accumulation_dtype(x.dtype)
    return x if x.dtype == dtype and x.is_contiguous() else x.detach().to(dtype).contiguous()


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
