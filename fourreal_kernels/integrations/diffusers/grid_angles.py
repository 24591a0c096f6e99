"""The rotary embedding of a grid of frames, made from the embedding of one video that the model has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ...grid import TIME, VIEW, VIEW_OR_TIME

VideoAngles = Callable[[int], tuple[Tensor, Tensor]]


class GridAngles(NamedTuple):
    """What an attention layer needs to know of the grid; handed through the model in place of its rotary embedding.

    ``cos`` and ``sin`` broadcast to ``(B, V, T, N, channels)``.
    """

    axes: str
    views: int
    times: int
    cos: Tensor
    sin: Tensor


class StreamAngles(NamedTuple):
    """The angles of view attention and those of time attention, for blocks that do both."""

    view: GridAngles
    time: GridAngles


@dataclass(frozen=True)
class GridSizes:
    """Views, timesteps, rows and columns of tokens, all after patches, and whether the latents are a 6-D grid."""

    views: int
    times: int
    height: int
    width: int
    gridded: bool


def grid_angles(mode: str, sizes: GridSizes, max_times: int | None, video: VideoAngles) -> GridAngles | StreamAngles:
    """The angles for one mode.

    View attention sees the views of one timestep as the frames of a video (position v), time attention the timesteps
    of one view (position t), fused attention the whole grid as one long video (position v * max_times + t,
    4Real-Video-V2).

    Args:
        mode: of ``apply_to``.
        sizes: of the grid.
        max_times: factor of the view index in the joint position; T when None.
        video: gives ``(cos, sin)``, each ``(b, frames, N, channels)`` with b 1 or B, of a video of that many frames.

    Raises:
        ValueError: ``max_times`` is less than T.
    """
    views, times = sizes.views, sizes.times
    if mode == "time":
        return GridAngles(TIME, views, times, *(x[:, None] for x in video(times)))
    if mode == "fused":
        spacing = times if max_times is None else max_times
        if spacing < times:
            raise ValueError(f"max_times: got {spacing}, expected at least the {times} timesteps of the latents")
        cos, sin = (x.unflatten(1, (views, spacing))[:, :, :times] for x in video(views * spacing))
        return GridAngles(VIEW_OR_TIME, views, times, cos, sin)
    return StreamAngles(
        GridAngles(VIEW, views, times, *(x[:, :, None] for x in video(views))),
        GridAngles(TIME, views, times, *(x[:, None] for x in video(times))),
    )
