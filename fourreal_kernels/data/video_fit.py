"""Fitting of a clip to a number of frames and a frame size."""

import numpy as np
import torch

from .clip import Clip, even_indices, resampling_note
from .frames import video_error

MIN_SIDE = 8


def fit_clip(clip: Clip, frames: int, size: tuple[int, int]) -> tuple[torch.Tensor, list[str]]:
    """Resample ``clip`` to ``frames`` frames of ``size`` = (H, W).

    Frames are taken at evenly spaced indices, first and last included; the picture is cropped centrally to
    the target aspect, and shrunk by area average or enlarged bilinearly. Returns float32
    ``(frames, 3, H, W)`` in [0, 1] and one sentence for each step that changed something.
    Raises VideoError when the clip has fewer than ``frames`` frames or a side below 8 pixels, ValueError for
    a ``frames`` or ``size`` that is not made of positive integers.
    """
    if not isinstance(frames, int) or frames < 1:
        raise ValueError(f"frames: got {frames!r}, expected a positive integer")
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"size: got {size!r}, expected (height, width), two positive integers")
    count, height, width = clip.frames.shape[:3]
    if count < frames:
        got = f"{count} frame{'s' if count != 1 else ''}"
        raise video_error(clip.source, got, f"at least {frames} frames")
    if min(height, width) < MIN_SIDE:
        got = f"frames of {width}x{height}"
        raise video_error(clip.source, got, f"both sides at least {MIN_SIDE} pixels")

    chosen, notes = _resample(clip.frames, frames)
    chosen, crop_notes = _crop(chosen, size)
    resized, resize_notes = _resize(chosen, size)
    return resized, notes + crop_notes + resize_notes


def _resample(frames: np.ndarray, count: int) -> tuple[np.ndarray, list[str]]:
    total = len(frames)
    if total == count:
        return frames, []
    indices = even_indices(total, count)
    return frames[indices], [resampling_note(total, indices)]


def _crop(frames: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    height, width = frames.shape[1:3]
    target_height, target_width = size
    new_height = min(height, max(1, round(width * target_height / target_width)))
    new_width = min(width, max(1, round(height * target_width / target_height)))
    if (new_height, new_width) == (height, width):
        return frames, []
    top, left = (height - new_height) // 2, (width - new_width) // 2
    cropped = frames[:, top : top + new_height, left : left + new_width]
    return cropped, [f"centre crop {width}x{height} -> {new_width}x{new_height} (width x height)"]


def _resize(frames: np.ndarray, size: tuple[int, int]) -> tuple[torch.Tensor, list[str]]:
    height, width = frames.shape[1:3]
    vertical, horizontal = _weights(height, size[0]), _weights(width, size[1])
    resized = torch.empty(len(frames), 3, *size)
    for index, frame in enumerate(frames):
        picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1).float() / 255
        resized[index] = vertical @ picture @ horizontal.T
    resized.clamp_(0, 1)
    if (height, width) == tuple(size):
        return resized, []
    method = "area average" if size[0] * size[1] < height * width else "bilinear"
    return resized, [f"resized {width}x{height} -> {size[1]}x{size[0]} ({method})"]


def _weights(old: int, new: int) -> torch.Tensor:
    """Weights ``(new, old)`` of the old pixels in each new one: by area when shrinking, else bilinear."""
    if new > old:
        identity = torch.eye(old)[None]
        return torch.nn.functional.interpolate(identity, size=new, mode="linear", align_corners=False)[0].T
    # An area filter undoes an enlargement by pixel repetition exactly, which wider filters blur.
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixels = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * new / old).float()
