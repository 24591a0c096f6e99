"""Which frames of a grid are given, and where the nearest given ones are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor


def cross_mask(views: int, times: int, device: torch.device | None = None) -> Tensor:
    """The paper's conditioning: the fixed-view video ``[0, :]`` and the freeze-time video ``[:, 0]`` are given.

    Returns:
        ``(V, T)`` bool.
    """
    given = torch.zeros(views, times, dtype=torch.bool, device=device)
    given[0, :] = True
    given[:, 0] = True
    return given


@dataclass(frozen=True)
class Sources:
    """The nearest given frames of each frame of a grid, as frames ``(B, V, T, 3, H, W)``, zero where there is none.

    ``same_view`` is the nearest given timestep of the same view, ``same_time`` the nearest given view of the same
    timestep, ``corner`` the frame at that other view and that other timestep when it is given too. The presence of
    each is a bool ``(B, V, T)``; ``time_index`` and ``view_index`` ``(B, V, T)`` say which timestep and view they are.
    """

    same_view: Tensor
    same_time: Tensor
    corner: Tensor
    has_same_view: Tensor
    has_same_time: Tensor
    has_corner: Tensor
    time_index: Tensor
    view_index: Tensor


Record = TypeVar("Record")


def select_frames(record: Record, where: tuple[Tensor, Tensor, Tensor]) -> Record:
    """Of a dataclass of ``(B, V, T, ...)`` tensors K frames as ``(1, 1, K, ...)``; ``where``: their b, v and t."""
    return type(record)(*(getattr(record, field.name)[where][None, None] for field in fields(record)))


def nearest_sources(frames: Tensor, given: Tensor) -> Sources:
    """Find and fetch the nearest given frames.

    Args:
        frames: ``(B, V, T, 3, H, W)``; only given frames are read.
        given: ``(B, V, T)`` bool.
    """
    batch, views, times = given.shape
    time_index, has_same_view = _nearest(given)
    view_index, has_same_time = _nearest(given.transpose(1, 2))
    view_index, has_same_time = view_index.transpose(1, 2), has_same_time.transpose(1, 2)
    b = torch.arange(batch, device=given.device)[:, None, None].expand(batch, views, times)
    v = torch.arange(views, device=given.device)[None, :, None].expand(batch, views, times)
    t = torch.arange(times, device=given.device)[None, None, :].expand(batch, views, times)
    has_corner = has_same_view & has_same_time & given[b, view_index, time_index]

    def fetch(view: Tensor, time: Tensor, present: Tensor) -> Tensor:
        return torch.where(present[..., None, None, None], frames[b, view, time], 0)

    return Sources(
        same_view=fetch(v, time_index, has_same_view),
        same_time=fetch(view_index, t, has_same_time),
        corner=fetch(view_index, time_index, has_corner),
        has_same_view=has_same_view,
        has_same_time=has_same_time,
        has_corner=has_corner,
        time_index=time_index,
        view_index=view_index,
    )


def _nearest(given: Tensor) -> tuple[Tensor, Tensor]:
    """Along the last axis: index of the nearest given entry (the earlier of two) and whether there is one."""
    length = given.shape[-1]
    index = torch.arange(length, device=given.device)
    distance = (index[:, None] - index[None, :]).abs().float()
    distance = distance.masked_fill(~given[..., None, :], float("inf"))
    nearest = distance.argmin(-1)
    return nearest, given.any(-1, keepdim=True).expand_as(nearest)
