"""Grids larger than those a model was trained on: which windows are generated, and in which order."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

WINDOWS = ("cross", "sliding", "whole")


class Window(NamedTuple):
    """A sub-grid that is generated at once: the views and timesteps of its frames, each in order."""

    views: tuple[int, ...]
    times: tuple[int, ...]


def check_windows(windows: str) -> None:
    """Raise ValueError unless :func:`plan_windows` knows this kind."""
    if windows not in WINDOWS:
        raise ValueError(f"windows: got {windows!r}, expected one of {', '.join(WINDOWS)}")


def plan_windows(given: Tensor, size: tuple[int, int], windows: str = "cross") -> list[Window]:
    """The windows that cover a grid, in the order in which they are generated (masked continuation, 4Real-Video).

    Frames of earlier windows condition later ones. The next window is always the one with most known frames, so that
    none is generated from nothing.

    Args:
        given: ``(V, T)`` bool, at least one True.
        size: most views and most timesteps of a window; 1 counts as 2.
        windows: ``"cross"``: each window holds the view and the timestep of which most frames are given (the first
            ones, where the fixed-view and the freeze-time video are given) beside neighbouring others, so that all
            frames are generated from given ones. ``"sliding"``: windows of neighbours that overlap by half, so that
            frames are generated from the generated ones before them. ``"whole"``: all at once.

    Returns:
        the windows, without those all of whose frames are known by then. A grid no larger than ``size`` is one window.
    """
    check_windows(windows)
    known = given.cpu().clone()
    if windows == "whole":
        lines = [[tuple(range(count))] for count in known.shape]
    else:
        anchors = (_most(known.sum(1).tolist()), _most(known.sum(0).tolist()))
        split = _around if windows == "cross" else _sliding
        lines = [
            split(count, max(2, limit), anchor)
            for count, limit, anchor in zip(known.shape, size, anchors, strict=True)
        ]
    waiting = [Window(views, times) for views in lines[0] for times in lines[1]]
    plan = []
    while waiting:
        window = waiting.pop(_most([int(_part(known, window).sum()) for window in waiting]))
        if not _part(known, window).all():
            plan.append(window)
        for view in window.views:
            known[view, list(window.times)] = True
    return plan


def _most(counts: list[int]) -> int:
    """Index of the largest, the first of equals."""
    return counts.index(max(counts))


def _part(known: Tensor, window: Window) -> Tensor:
    return known[list(window.views)][:, list(window.times)]


def _around(count: int, size: int, anchor: int) -> list[tuple[int, ...]]:
    """``anchor`` with each run of the others, of lengths as equal as can be."""
    if count <= size:
        return [tuple(range(count))]
    others = [index for index in range(count) if index != anchor]
    parts = math.ceil(len(others) / (size - 1))
    cuts = [len(others) * part // parts for part in range(parts + 1)]
    return [tuple(sorted([anchor, *others[start:end]])) for start, end in zip(cuts, cuts[1:], strict=False)]


def _sliding(count: int, size: int, anchor: int) -> list[tuple[int, ...]]:
    """Runs of ``size`` neighbours, each half a run after the one before."""
    if count <= size:
        return [tuple(range(count))]
    starts = [*range(0, count - size, size // 2), count - size]
    return [tuple(range(start, start + size)) for start in starts]
