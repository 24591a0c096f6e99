"""Between the grid ``(B, V, T, N, H, D)`` and lines of tokens ``(L, H, S, D)``, as PyTorch's attention takes them."""

from __future__ import annotations

from torch import Tensor

# Dims of the grid per axes: the batch of the lines, then the tokens of a line.
_ORDER = {
    "tn": ((0, 1), (2, 3)),
    "vn": ((0, 2), (1, 3)),
    "n": ((0, 1, 2), (3,)),
    "v": ((0, 2, 3), (1,)),
    "t": ((0, 1, 3), (2,)),
    "vt": ((0, 3), (1, 2)),
    "vtn": ((0,), (1, 2, 3)),
}


def to_lines(x: Tensor, axes: str) -> Tensor:
    """``(L, H, S, D)``; heads stay beside D in memory. Copies where the axes are not one stride."""
    batch, inside = _ORDER[axes]
    permuted = x.permute(*batch, *inside, 4, 5)
    lines = permuted.flatten(len(batch), 3).flatten(0, len(batch) - 1)
    return lines.transpose(1, 2)


def from_lines(x: Tensor, axes: str, sizes: tuple[int, ...]) -> Tensor:
    """Inverse of :func:`to_lines` for a grid of ``sizes`` (B, V, T, N, H, D), as a view."""
    batch, inside = _ORDER[axes]
    order = (*batch, *inside)
    grid = x.transpose(1, 2).unflatten(0, [sizes[dim] for dim in batch])
    grid = grid.unflatten(len(batch), [sizes[dim] for dim in inside])
    return grid.permute(*(order.index(dim) for dim in range(4)), 4, 5)
