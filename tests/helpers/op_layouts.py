"""The same values in different memory layouts, for grids ``(B, V, T, N, H, D)``."""

from __future__ import annotations

import torch
from torch import Tensor


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous().clone()


def packed(x: Tensor, slot: int = 1) -> Tensor:
    """One of three tensors of a packed ``(B, V, T, N, 3, H, D)`` projection."""
    buffer = x.new_full((*x.shape[:4], 3, *x.shape[4:]), float("nan"))
    return _filled(buffer[:, :, :, :, slot], x)


def offset(x: Tensor) -> Tensor:
    """Dense, but not at the start of its storage."""
    buffer = x.new_full((x.numel() + 12,), float("nan"))
    return _filled(buffer[5 : 5 + x.numel()].view(x.shape), x)


def time_first(x: Tensor) -> Tensor:
    """Stored as ``(B, T, V, N, H, D)``."""
    return _filled(torch.empty_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2), x)


def heads_first(x: Tensor) -> Tensor:
    """Stored as ``(B, H, V, T, N, D)``."""
    stored = x.permute(0, 4, 1, 2, 3, 5)
    buffer = torch.empty_like(stored, memory_format=torch.contiguous_format)
    return _filled(buffer.permute(0, 2, 3, 4, 1, 5), x)


def sliced(x: Tensor) -> Tensor:
    """A slice along every dim of a larger NaN-filled tensor: strides that no vector width divides."""
    buffer = x.new_full([size + 3 for size in x.shape], float("nan"))
    return _filled(buffer[tuple(slice(2, 2 + size) for size in x.shape)], x)


def stepped(x: Tensor) -> Tensor:
    """Every second view, timestep and token of a larger NaN-filled tensor."""
    b, v, t, n, h, d = x.shape
    buffer = x.new_full((b, 2 * v, 2 * t, 2 * n, h, d), float("nan"))
    return _filled(buffer[:, ::2, 1::2, ::2], x)


def _filled(view: Tensor, values: Tensor) -> Tensor:
    view.copy_(values)
    return view


LAYOUTS = {
    layout.__name__: layout
    for layout in (contiguous, packed, offset, time_first, heads_first, sliced, stepped)
}
STRIDED = tuple(name for name in LAYOUTS if name != "contiguous")
