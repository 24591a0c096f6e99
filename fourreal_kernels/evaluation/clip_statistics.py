"""Handcrafted statistics of a clip: colours, sharpness, and how the colours change from frame to frame."""

from __future__ import annotations

import torch
from torch import Tensor

STATISTICS = (
    "mean red", "mean green", "mean blue", "deviation red", "deviation green", "deviation blue",
    "log spatial gradient", "log change", "log change, largest step", "log change, smallest step",
    "log second change", "log second change over change", "changed pixels", "log flicker of the mean colour",
    "log change over half the clip", "log change from end to end",
)  # fmt: skip
_CHANGED = 0.1
_FLOOR = 1e-3


def clip_statistics(clip: Tensor) -> Tensor:
    """The values of :data:`STATISTICS` for one clip ``(F, 3, H, W)`` in [0, 1], at least three frames: ``(16,)``.

    "Change" is the mean absolute difference between neighbouring frames (first difference), "second change" that of
    the differences; logarithms are natural, of the value plus 0.001. The "flicker" is the mean absolute first
    difference of each frame's mean colour. Nothing is learned and no motion is estimated.
    """
    if clip.ndim != 4 or len(clip) < 3:
        raise ValueError(f"clip: got shape {tuple(clip.shape)}, expected (F, 3, H, W) with at least 3 frames")
    difference = clip.diff(dim=0)
    step = difference.abs().mean((1, 2, 3))
    second = difference.diff(dim=0).abs().mean()
    gradient = clip.diff(dim=-1).abs().mean() + clip.diff(dim=-2).abs().mean()
    changed = (difference.abs().amax(1) > _CHANGED).float().mean()
    flicker = clip.mean((2, 3)).diff(dim=0).abs().mean()
    half = (clip[len(clip) // 2 :] - clip[: len(clip) - len(clip) // 2]).abs().mean()
    ends = (clip[-1] - clip[0]).abs().mean()
    change = step.mean()
    motion = torch.stack([gradient, change, step.amax(), step.amin(), second])
    spread = torch.stack([flicker, half, ends])
    return torch.cat([
        clip.mean((0, 2, 3)), clip.std((0, 2, 3)), _log(motion),
        (_log(second) - _log(change))[None], changed[None], _log(spread),
    ])  # fmt: skip


def _log(value: Tensor) -> Tensor:
    return (value + _FLOOR).log()
