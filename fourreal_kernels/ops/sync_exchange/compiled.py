"""What the compiled backends share: streams as grids, and parameters in the accumulation dtype."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..checks import accumulation_dtype

GRID_DIMS = 5
_ACCUMULATION_DTYPES = (torch.float32, torch.float64)


def as_grid(x: Tensor) -> Tensor:
    """``(B, ..., C)`` of up to five dims as five, without a copy."""
    return x if x.ndim == GRID_DIMS else x[(slice(None), *[None] * (GRID_DIMS - x.ndim))]


def as_grids(tensors: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape ``(B, ..., C)`` as five-dim views of the same parts: one set, unless dims cannot merge."""
    if tensors[0].ndim <= GRID_DIMS:
        yield tensors if tensors[0].ndim == GRID_DIMS else tuple(as_grid(x) for x in tensors)
        return
    merged = _merged(tensors)
    if merged is not None:
        yield from as_grids(merged)
        return
    for index in range(tensors[0].shape[1]):
        yield from as_grids(tuple(x[:, index] for x in tensors))


def _merged(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """With the first two neighbouring dims between batch and channels joined that are so in every tensor."""
    shape = tensors[0].shape
    for dim in range(1, len(shape) - 2):
        try:
            return tuple(x.view(*shape[:dim], -1, *shape[dim + 2 :]) for x in tensors)
        except RuntimeError:
            continue
    return None


def as_accumulated(x: Tensor | None) -> Tensor | None:
    """Parameters are small: the kernels read them contiguous in the accumulation dtype."""
    if x is None or (x.dtype in _ACCUMULATION_DTYPES and x.is_contiguous()):
        return x
    return x.detach().to(accumulation_dtype(x.dtype)).contiguous()


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
