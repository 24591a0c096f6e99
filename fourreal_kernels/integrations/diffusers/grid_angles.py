"""The rotary embedding of a grid of frames, made from the embedding of one video that the model has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ...grid import TIME, VIEW, VIEW_OR_TIME

# What a model has for a video of so many frames: tensors (b, frames, N, channels) with b 1 or B.
OfVideo = Callable[[int], tuple[Tensor, ...]]


class GridAngles(NamedTuple):
    """What an attention layer needs to know of the grid; handed through the model in place of its rotary embedding.

    ``cos`` and ``sin`` broadcast to ``(B, V, T, N, channels)``; both are None in a model that does not rotate.
    """

    axes: str
    views: int
    times: int
    cos: Tensor | None
    sin: Tensor | None


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


def frames_of_grid(axes: str, sizes: GridSizes, spacing: int, video: OfVideo) -> tuple[Tensor, ...]:
    """What the frames of a grid have under one attention, by what the frames of a video have.

    View attention sees the views of one timestep as the frames of a video (position v), time attention the timesteps
    of one view (position t), attention over both the whole grid as one long video (position v * spacing + t,
    4Real-Video-V2).

    Args:
        axes: ``"vn"``, ``"tn"`` or ``"vn|tn"``.
        sizes: of the grid.
        spacing: positions from one view to the next in the long video.
        video: gives tensors ``(b, frames, N, channels)`` for a video of that many frames.

    Returns:
        tensors that broadcast to ``(b, V, T, N, channels)``.
    """
    if axes == TIME:
        return tuple(x[:, None] for x in video(sizes.times))
    if axes == VIEW:
        return tuple(x[:, :, None] for x in video(sizes.views))
    long = video(sizes.views * spacing)
    return tuple(x.unflatten(1, (sizes.views, spacing))[:, :, : sizes.times] for x in long)


def spacing_of_views(sizes: GridSizes, max_times: int | None) -> int:
    """Positions from one view to the next in the long video: ``max_times``, or T when None.

    Raises:
        ValueError: ``max_times`` is less than T.
    """
    if max_times is not None and max_times < sizes.times:
        raise ValueError(f"max_times: got {max_times}, expected at least the {sizes.times} timesteps of the latents")
    return sizes.times if max_times is None else max_times


def grid_angles(
    mode: str, sizes: GridSizes, max_times: int | None, video: OfVideo | None
) -> GridAngles | StreamAngles:
    """The angles for one mode.

    Args:
        mode: of ``apply_to``.
        sizes: of the grid.
        max_times: factor of the view index in the joint position; T when None.
        video: gives ``(cos, sin)``, each ``(b, frames, N, channels)``, of a video of that many frames; None in a model
            that does not rotate.

    Raises:
        ValueError: ``max_times`` is less than T.
    """

    def angles(axes: str, spacing: int) -> GridAngles:
        cos, sin = (None, None) if video is None else frames_of_grid(axes, sizes, spacing, video)
        return GridAngles(axes, sizes.views, sizes.times, cos, sin)

    if mode == "time":
        return angles(TIME, sizes.times)
    if mode == "fused":
        return angles(VIEW_OR_TIME, spacing_of_views(sizes, max_times))
    return StreamAngles(angles(VIEW, sizes.times), angles(TIME, sizes.times))
