"""The nearest given frames of each frame, displaced to where their surfaces should be in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .conditioning import Sources
from .matching import compose, displace, match

EVIDENCE_CHANNELS = 8
_FLOW_UNIT = 8.0


@dataclass(frozen=True)
class Alignment:
    """First estimates of missing frames from given ones.

    Attributes:
        flow_same_view, flow_same_time: ``(B, V, T, 2, H, W)`` displacement (dx, dy) in pixels from each pixel to its
            match in the nearest given frame of the same view or timestep.
        confidence: ``(B, V, T, 1, H, W)``, 0 where the flows are guesses.
        errors: ``(B, V, T, 2, H, W)`` colour difference in the match that each of the two flows was taken from.
        same_view, same_time: ``(B, V, T, 3, H, W)`` those given frames, displaced by the flows.
    """

    flow_same_view: Tensor
    flow_same_time: Tensor
    confidence: Tensor
    errors: Tensor
    same_view: Tensor
    same_time: Tensor

    def evidence(self) -> Tensor:
        """What there is to judge the displaced frames by, ``(B, V, T, EVIDENCE_CHANNELS, H, W)``.

        Flows, in units that bring all channels to one order, confidence, errors, and how far the two displaced frames
        are apart.
        """
        apart = (self.same_view - self.same_time).abs().mean(3, keepdim=True)
        flows = (self.flow_same_view / _FLOW_UNIT, self.flow_same_time / _FLOW_UNIT)
        return torch.cat([*flows, self.confidence, self.errors, apart], dim=3)


def unaligned(sources: Sources) -> Alignment:
    """The given frames where they are: zero flows, zero confidence."""
    shape = sources.same_view.shape
    flow = sources.same_view.new_zeros(*shape[:3], 2, *shape[-2:])
    return Alignment(flow, flow, flow[:, :, :, :1], flow, sources.same_view, sources.same_time)


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
    to_view, to_time = _match_pairs(frames.flatten(0, 2), frames.shape[2], corner, same_view, same_time)
    beside = (x.flatten(0, 2)[missing] for x in (sources.corner, sources.same_view, sources.same_time))
    composed = compose(*beside, to_view, to_time)
    result = []
    for values in composed:
        full = values.new_zeros(given.numel(), *values.shape[1:])
        full[missing] = values
        result.append(full)
    aligned = [
        displace(source.flatten(0, 2), flow, "bicubic")
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


def _match_pairs(
    frames: Tensor, times: int, corner: Tensor, same_view: Tensor, same_time: Tensor
) -> tuple[Tensor, Tensor]:
    """Flows corner -> same view and corner -> same time; pairs that several frames share are matched once.

    The given frames on one side of a corner are a clip: they are matched from the nearest one outward, each around the
    flow of the one before, so that surfaces are followed further than one search would find them.
    """
    pairs = torch.cat([torch.stack([corner, same_view], 1), torch.stack([corner, same_time], 1)])
    unique, inverse = torch.unique(pairs, dim=0, return_inverse=True)
    flow = frames.new_zeros(len(unique), 2, *frames.shape[-2:])
    for members, before in _rounds(unique.tolist(), times):
        pair = unique[members]
        near = None if before is None else flow[before]
        flow[members] = match(frames[pair[:, 0]], frames[pair[:, 1]], near)
    to_view, to_time = flow[inverse].chunk(2)
    return to_view, to_time


def _rounds(pairs: list[list[int]], times: int) -> Iterator[tuple[list[int], list[int] | None]]:
    """The pairs (corner, frame) in rounds: indices of one pair of each clip and those of the clips' pairs before.

    Frames are positions in a flattened ``(B, V, T)`` with T = ``times``.
    """
    clips = defaultdict(list)
    for index, (corner, frame) in enumerate(pairs):
        along_time = corner // times == frame // times
        clips[corner, along_time, frame > corner].append((abs(frame - corner), index))
    ordered = [[index for _, index in sorted(clip)] for clip in clips.values()]
    for depth in range(max(map(len, ordered))):
        longer = [clip for clip in ordered if len(clip) > depth]
        yield [clip[depth] for clip in longer], [clip[depth - 1] for clip in longer] if depth else None
