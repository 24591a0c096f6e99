"""The nearest given frames of each frame, displaced to where their surfaces should be in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .conditioning import Sources
from .matching import compose, displace, match


@dataclass(frozen=True)
class Alignment:
    """First estimates of missing frames from given ones.

    Attributes:
        flow_same_view, flow_same_time: ``(B, V, T, 2, H, W)`` displacement (dx, dy) in pixels from each pixel to its
            match in the nearest given frame of the same view or timestep.
        confidence: ``(B, V, T, 1, H, W)``, 0 where the flows are guesses.
        same_view, same_time: ``(B, V, T, 3, H, W)`` those given frames, displaced by the flows.
    """

    flow_same_view: Tensor
    flow_same_time: Tensor
    confidence: Tensor
    same_view: Tensor
    same_time: Tensor


def unaligned(sources: Sources) -> Alignment:
    """The given frames where they are: zero flows, zero confidence."""
    shape = sources.same_view.shape
    flow = sources.same_view.new_zeros(*shape[:3], 2, *shape[-2:])
    return Alignment(flow, flow, flow[:, :, :, :1], sources.same_view, sources.same_time)


@torch.no_grad()
def align(frames: Tensor, given: Tensor, sources: Sources) -> Alignment:
    """Match the given frames with one another and carry the flows over to the missing frames.

    Args:
        frames: ``(B, V, T, 3, H, W)``; only given frames are read.
        given: ``(B, V, T)`` bool.
        sources: of the same frames. Frames whose corner is not given keep zero flows.
    """
    missing = (~given & sources.has_corner).flatten().nonzero()[:, 0]
    if len(missing) == 0:
        return unaligned(sources)
    corner, same_view, same_time = (index.flatten()[missing] for index in _frame_indices(given, sources))
    to_view, to_time = _match_pairs(frames.flatten(0, 2), corner, same_view, same_time)
    beside = (x.flatten(0, 2)[missing] for x in (sources.corner, sources.same_view, sources.same_time))
    composed = compose(*beside, to_view, to_time)
    result = []
    for values in composed:
        full = values.new_zeros(given.numel(), *values.shape[1:])
        full[missing] = values
        result.append(full)
    aligned = [
        displace(source.flatten(0, 2), flow)
        for source, flow in zip((sources.same_view, sources.same_time), result[:2], strict=True)
    ]
    return Alignment(*(x.unflatten(0, given.shape) for x in (*result, *aligned)))


def _frame_indices(given: Tensor, sources: Sources) -> tuple[Tensor, Tensor, Tensor]:
    """Position of the corner, the same-view and the same-time frame in the flattened ``(B, V, T)``."""
    batch, views, times = given.shape
    b = torch.arange(batch, device=given.device)[:, None, None]
    v = torch.arange(views, device=given.device)[None, :, None]
    t = torch.arange(times, device=given.device)[None, None, :]

    def flat(view: Tensor, time: Tensor) -> Tensor:
        return ((b * views + view) * times + time).expand(given.shape)

    return (
        flat(sources.view_index, sources.time_index),
        flat(v, sources.time_index),
        flat(sources.view_index, t),
    )


def _match_pairs(frames: Tensor, corner: Tensor, same_view: Tensor, same_time: Tensor) -> tuple[Tensor, Tensor]:
    """Flows corner -> same view and corner -> same time; pairs that several frames share are matched once."""
    pairs = torch.cat([torch.stack([corner, same_view], 1), torch.stack([corner, same_time], 1)])
    unique, inverse = torch.unique(pairs, dim=0, return_inverse=True)
    flow = match(frames[unique[:, 0]], frames[unique[:, 1]])
    to_view, to_time = flow[inverse].chunk(2)
    return to_view, to_time
