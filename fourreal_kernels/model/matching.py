"""Matching of given frames, without learned weights: where the surfaces of one given frame are in another.

The warp head starts from these flows. They depend on given frames only and are computed once per grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.geometry import pixel_positions, warp
from .windows import window_mean, window_median, window_sum

# Pyramid levels, coarse to fine: (reduction, search radius, side of the matching window), in pixels of the level.
_LEVELS = ((4, 4, 3), (2, 2, 5), (1, 2, 5))
# Levels that are searched around a flow that is known to be near.
_NEAR_LEVELS = _LEVELS[1:]
_MOVE_PENALTY = 0.012
_SUBPIXEL_SHARPNESS = 60.0
_SPLAT_SHARPNESS = 25.0
_FILL_ITERATIONS = 16
_MEDIAN_WINDOW = 5


def displace(frames: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample frames where the flow points, with the border repeated.

    Args:
        frames: ``(M, C, H, W)``.
        flow: ``(M, 2, H, W)`` displacement (dx, dy) in pixels.
        mode: ``"bilinear"`` or ``"bicubic"``.
    """
    return warp(frames, pixel_positions(*frames.shape[-2:], frames.device) + flow, mode)


def match(template: Tensor, target: Tensor, near: Tensor | None = None) -> Tensor:
    """Flow from each pixel of ``template`` to its match in ``target``: coarse-to-fine block matching.

    Args:
        template, target: ``(M, 3, H, W)``, H and W multiples of 4.
        near: ``(M, 2, H, W)`` a flow to look around, such as that to the frame before ``target``; None to look for
            displacements of up to about 22 pixels along each axis.

    Returns:
        ``(M, 2, H, W)`` displacement (dx, dy) in pixels.
    """
    levels = _LEVELS if near is None else _NEAR_LEVELS
    coarsest = levels[0][0]
    if near is None:
        flow = template.new_zeros(template.shape[0], 2, *(side // coarsest for side in template.shape[-2:]))
    else:
        flow = F.avg_pool2d(near, coarsest) / coarsest
    for reduction, radius, window in levels:
        small_template, small_target = (F.avg_pool2d(x, reduction) for x in (template, target))
        if flow.shape[-2:] != small_template.shape[-2:]:
            flow = 2 * F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)
        flow = _search(small_template, small_target, flow, radius, window)
    return window_median(flow, _MEDIAN_WINDOW)


def _search(template: Tensor, target: Tensor, flow: Tensor, radius: int, window: int) -> Tensor:
    """The best displacement within ``radius`` of ``flow``, sub-pixel by a soft minimum over its neighbours."""
    steps = torch.arange(-radius, radius + 1, device=flow.device, dtype=flow.dtype)
    offsets = torch.cartesian_prod(steps, steps)
    difference = torch.stack(
        [(displace(target, flow + offset[:, None, None]) - template).abs().mean(1) for offset in offsets], dim=1
    )
    cost = window_mean(difference, window) + _MOVE_PENALTY * offsets.norm(dim=1)[:, None, None]
    best = offsets[cost.argmin(1)].movedim(-1, 1)
    distance = (offsets[None, :, :, None, None] - best[:, None]).abs().amax(2)
    weight = torch.softmax((-_SUBPIXEL_SHARPNESS * cost).masked_fill(distance > 1, float("-inf")), dim=1)
    return flow + torch.einsum("mshw,sc->mchw", weight, offsets)


def compose(
    corner: Tensor, same_view: Tensor, same_time: Tensor, to_view: Tensor, to_time: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Flows of a missing frame from the matches of the corner frame with the frames beside it.

    A surface seen at y in the corner frame is at y + a in the frame of the same view, at y + b in the frame of the same
    timestep, and so, to first order, at y + a + b in the missing frame. Each pixel of the corner frame is moved there;
    where several arrive, those that look the same in all three frames count.

    Args:
        corner, same_view, same_time: ``(M, 3, H, W)``.
        to_view, to_time: ``(M, 2, H, W)``, a and b.

    Returns:
        ``(flow to same_view, flow to same_time, confidence, errors)``: ``(M, 2, H, W)`` twice, ``(M, 1, H, W)`` in
        [0, 1], 0 where no pixel arrived and flows and errors are filled in from around, and ``(M, 2, H, W)``: how far
        apart, as mean absolute difference, the colours are in the match that each flow was taken from.
    """
    # The flow to the frame of the same view is the way back along time, and the other one that along the views.
    moved = displace(same_time, to_time), displace(same_view, to_view)
    errors = torch.cat([(x - corner).abs().mean(1, keepdim=True) for x in moved], dim=1)
    weight = torch.exp(-_SPLAT_SHARPNESS * errors.sum(1, keepdim=True))
    values = torch.cat([-to_time, -to_view, errors, torch.ones_like(weight)], dim=1) * weight
    arrived = _splat(values, to_view + to_time)
    total = arrived[:, 6:]
    known = total > 1e-3
    means = torch.where(known, arrived[:, :6] / total.clamp_min(1e-6), 0.0)
    means = window_median(_fill(means, known), _MEDIAN_WINDOW)
    return means[:, :2], means[:, 2:4], total.clamp(0, 1), means[:, 4:]


def _splat(values: Tensor, flow: Tensor) -> Tensor:
    """Move values along the flow, each into the four nearest pixels with bilinear weights."""
    height, width = values.shape[-2:]
    position = pixel_positions(height, width, values.device) - 0.5 + flow
    x, y = position.unbind(1)
    result = values.new_zeros(*values.shape[:2], height * width)
    for column in (x.floor(), x.floor() + 1):
        for row in (y.floor(), y.floor() + 1):
            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
            moved = (values * (share * inside)[:, None]).flatten(2)
            result.scatter_add_(2, index.flatten(1)[:, None].expand_as(moved), moved)
    return result.unflatten(2, (height, width))


def _fill(values: Tensor, known: Tensor) -> Tensor:
    """Unknown values take the mean of their known neighbours, again and again."""
    known = known.to(values.dtype)
    for _ in range(_FILL_ITERATIONS):
        if known.all():
            break
        near = window_sum(known, 3)
        spread = window_sum(values * known, 3) / near.clamp_min(1e-6)
        values = torch.where(known > 0, values, spread)
        known = (near > 0).to(values.dtype)
    return values
