"""Clips read off a grid: along time, along views, along diagonals, and through the whole grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def time_lines(grid: Tensor) -> list[Tensor]:
    """The T frames of every view: V clips ``(T, ...)`` of a grid ``(V, T, ...)``."""
    return list(grid)


def view_lines(grid: Tensor) -> list[Tensor]:
    """The V frames of every timestep: T clips ``(V, ...)``."""
    return list(grid.transpose(0, 1))


def diagonals(grid: Tensor) -> list[Tensor]:
    """Two clips in which view and time change together, from corner to corner of the grid.

    Clip i has max(V, T) frames; the shorter axis is sampled evenly, rounded to the nearest index.
    """
    views, times = grid.shape[:2]
    count = max(views, times)
    view = torch.linspace(0, views - 1, count).round().long()
    time = torch.linspace(0, times - 1, count).round().long()
    return [grid[view, time], grid[view, time.flip(0)]]


def whole_grid(grid: Tensor) -> list[Tensor]:
    """One clip of V T frames: the views in turn, time running forth in one and back in the next."""
    return [torch.cat([line if view % 2 == 0 else line.flip(0) for view, line in enumerate(grid)])]


LINES: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "time lines": time_lines,
    "view lines": view_lines,
    "diagonals": diagonals,
    "whole grid": whole_grid,
}
