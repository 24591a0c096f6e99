"""Consistency between neighbouring frames: colours warped by the true motion of the surfaces."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import warp
from .correspondence import Correspondence


def reprojection_error(frames: Tensor, pairs: Correspondence) -> float:
    """Mean squared colour difference between frames and their neighbours warped onto them, over visible pixels.

    With p' the true position in the second frame of what the first shows at p:
    ``mean over p of (first(p) - second(p'))^2``, bicubic sampling. Along views this is reprojection by true depth,
    along time by true scene flow. It needs no true colours: a grid that is wrong but consistent has a small error.

    Args:
        frames: ``(V, T, 3, H, W)`` in [0, 1].

    Returns:
        the error; NaN where no pixel is visible.
    """
    first = pairs.first(frames)
    warped = warp(pairs.second(frames), pairs.position, "bicubic").clamp(0, 1)
    error = (first - warped).square().mean(1)[pairs.visible]
    return float(error.mean()) if error.numel() else float("nan")


def decibels(error: float) -> float:
    """A mean squared error as PSNR in dB."""
    return float(-10 * torch.log10(torch.tensor(error).clamp_min(1e-12)))
