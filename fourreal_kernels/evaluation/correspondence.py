"""True correspondences between neighbouring frames of a rendered grid, along views and along time apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import GridRender, surface_flow

AXES = ("view", "time")


@dataclass(frozen=True)
class Correspondence:
    """Where the surfaces of each frame are in the next frame along one axis. P pairs of frames.

    Attributes:
        axis: ``"view"``: frames (v, t) and (v + 1, t); ``"time"``: (v, t) and (v, t + 1).
        view, time: ``(P,)`` int64, the indices of the first frame of each pair.
        position: ``(P, 2, H, W)`` float32, pixels (x, y) in the second frame, pixel centres at half-integers.
        visible: ``(P, H, W)`` bool: in frame, not hidden, and not within one pixel of another surface in either frame,
            where a pixel mixes two surfaces.
    """

    axis: str
    view: Tensor
    time: Tensor
    position: Tensor
    visible: Tensor

    def first(self, grid: Tensor) -> Tensor:
        """The first frame of each pair of ``grid`` ``(V, T, ...)``: ``(P, ...)``."""
        return grid[self.view, self.time]

    def second(self, grid: Tensor) -> Tensor:
        """The second frame of each pair."""
        step_view, step_time = _step(self.axis)
        return grid[self.view + step_view, self.time + step_time]


def correspondence(render: GridRender, axis: str, given: Tensor | None = None) -> Correspondence:
    """Pairs of neighbouring frames along ``axis`` and the true motion of surfaces between them.

    Args:
        render: a rendered grid of at least two frames along the axis.
        axis: ``"view"`` (the scene stands still, the camera moves) or ``"time"`` (scene flow; the camera stands still).
        given: ``(V, T)`` bool, frames that were input; pairs of two given frames are left out.

    Raises:
        ValueError: unknown axis, or no pair is left.
    """
    step_view, step_time = _step(axis)
    views, times = render.depth.shape[:2]
    view, time = torch.meshgrid(torch.arange(views), torch.arange(times), indexing="ij")
    position, visible = surface_flow(
        render, (view + step_view).clamp_max(views - 1), (time + step_time).clamp_max(times - 1)
    )
    chosen = (view + step_view < views) & (time + step_time < times)
    if given is not None:
        beside = given.roll((-step_view, -step_time), (0, 1))
        chosen &= ~(given & beside)
    if not chosen.any():
        raise ValueError(f"axis: no pair of frames along {axis} in a grid of {views} x {times} with a frame to measure")
    pairs = Correspondence(axis, view[chosen], time[chosen], position[chosen], visible[chosen])
    inside = _one_surface(render.instance)
    inside = pairs.first(inside) & _at(pairs.second(inside), pairs.position)
    return Correspondence(axis, pairs.view, pairs.time, pairs.position, pairs.visible & inside)


def _step(axis: str) -> tuple[int, int]:
    if axis not in AXES:
        raise ValueError(f"axis: got {axis!r}, expected one of {AXES}")
    return (1, 0) if axis == "view" else (0, 1)


def _one_surface(instance: Tensor) -> Tensor:
    """Pixels whose eight neighbours show the same instance. ``(V, T, H, W)``; the outermost pixels count as inside."""
    planes = F.pad(instance.float().flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    same = F.max_pool2d(planes, 3, 1) == -F.max_pool2d(-planes, 3, 1)
    return same[:, 0].view(instance.shape)


def _at(mask: Tensor, position: Tensor) -> Tensor:
    """Values of ``mask`` ``(P, H, W)`` at the pixels nearest to positions ``(P, 2, H, W)``."""
    height, width = mask.shape[-2:]
    x, y = position.unbind(1)
    index = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
    return mask.flatten(1).gather(1, index.flatten(1)).view(mask.shape)
