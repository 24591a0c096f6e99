"""Pseudo-4D grids from ordinary clips: each view is a 2D homography of the clip.

4Real-Video's first training stage uses affine and homography transforms of ordinary videos; the distribution
of the transforms is not published, so the one here is our choice.

Homographies act on normalised image coordinates: (-1, -1) is the top left corner of the image, (1, 1) the
bottom right one. The homography of a view maps its pixels to where they are found in the first view.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .geometry import GivenFlow, pixel_positions

DEFAULT_STRENGTH = 0.15
# Largest rotation (radians), log zoom, shear, shift and perspective of a path of strength 1.
_ROTATION, _ZOOM, _SHEAR, _SHIFT, _PERSPECTIVE = 1.0, 0.8, 0.6, 1.2, 0.6


def homography_path(
    views: int, strength: float = DEFAULT_STRENGTH, generator: torch.Generator | None = None
) -> Tensor:
    """A smooth random path of homographies (V, 3, 3) float32 that starts at the identity.

    Each of the eight parameters moves along a random quarter to half period of a sine, up to `strength` times
    its largest value. Raises ValueError for views < 1 or a strength outside [0, 1].
    """
    if views < 1:
        raise ValueError(f"views: got {views}, expected at least 1")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: got {strength}, expected a number in [0, 1]")
    largest = torch.tensor([_ROTATION, _ZOOM, _ZOOM / 2, _SHEAR, _SHIFT, _SHIFT, _PERSPECTIVE, _PERSPECTIVE])
    amplitude = strength * largest * (2 * torch.rand(8, generator=generator) - 1)
    quarter_periods = 1 + torch.rand(8, generator=generator)
    progress = torch.linspace(0, 1, views)[:, None]
    return _homography(amplitude * (0.5 * math.pi * quarter_periods * progress).sin())


def pseudo_4d(
    clip: Tensor,
    views: int,
    generator: torch.Generator | None = None,
    *,
    strength: float = DEFAULT_STRENGTH,
    path: Tensor | None = None,
) -> Tensor:
    """Frames (V, T, 3, H, W) of a clip (T, 3, H, W) float in [0, 1], seen along a path of homographies.

    All views are zoomed into the clip by the same factor, the least at which no view shows the clip's border.
    `path` (V, 3, 3), which must start at the identity, replaces the random one. Raises ValueError for a clip
    or path of another shape.
    """
    _check_frames("clip", clip, 4)
    path = homography_path(views, strength, generator) if path is None else path
    if path.shape != (views, 3, 3):
        raise ValueError(f"path: got shape {tuple(path.shape)}, expected ({views}, 3, 3)")
    path = path.to(clip.device)
    zoom = _zoom_inside(path, *clip.shape[-2:]).amin()
    return _sample(clip, _scaled(path, zoom.expand(views)))


def freeze_time_from_image(
    image: Tensor,
    views: int,
    generator: torch.Generator | None = None,
    *,
    strength: float = DEFAULT_STRENGTH,
) -> Tensor:
    """A freeze-time video (V, 3, H, W) of an image (3, H, W) float in [0, 1], whose first frame is the image
    itself.

    Every view is zoomed in as little as it needs to show no border, so that the first frame of a real clip
    can stand beside the clip as the second given video.
    """
    _check_frames("image", image, 3)
    path = homography_path(views, strength, generator).to(image.device)
    zoom = _zoom_inside(path, *image.shape[-2:])
    return _sample(image[None], _scaled(path, zoom))[:, 0]


def homography_flow(path: Tensor, times: int, height: int, width: int) -> GivenFlow:
    """Correspondences of a `pseudo_4d` grid made along `path` (V, 3, 3), which must start at the identity.

    The match in the fixed-view video is exact, (V, T, 2, H, W) float32 pixels; the match in the freeze-time
    video depends on the clip's own motion and is None.
    """
    pixels = pixel_positions(height, width, path.device)
    size = torch.tensor([width, height], device=path.device)[:, None, None]
    position = (_apply(path, pixels / size * 2 - 1) + 1) / 2 * size
    visible = ((position >= 0) & (position <= size)).all(1)
    grid = (-1, times, -1, -1)
    return GivenFlow(
        flow_from_freeze=None,
        visible_from_freeze=None,
        flow_from_fixed=(position - pixels)[:, None].expand(-1, times, -1, -1, -1),
        visible_from_fixed=visible[:, None].expand(grid),
    )


def _homography(parameters: Tensor) -> Tensor:
    """Homographies (V, 3, 3) of (V, 8): rotation, log zoom, log aspect, shear, shift, perspective."""
    rotation, zoom, aspect, shear, shift_x, shift_y, lean_x, lean_y = parameters.unbind(-1)
    cosine, sine = rotation.cos(), rotation.sin()
    scale_x, scale_y = (zoom + aspect).exp(), (zoom - aspect).exp()
    one = torch.ones_like(rotation)
    rows = [
        scale_x * cosine,
        scale_x * (shear * cosine - sine),
        shift_x,
        scale_y * sine,
        scale_y * (shear * sine + cosine),
        shift_y,
        lean_x,
        lean_y,
        one,
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _apply(path: Tensor, points: Tensor) -> Tensor:
    """Images (V, 2, ...) of points (2, ...) under homographies (V, 3, 3)."""
    homogeneous = torch.cat([points, torch.ones_like(points[:1])]).flatten(1)
    mapped = path @ homogeneous
    return (mapped[:, :2] / mapped[:, 2:]).unflatten(-1, points.shape[1:])


def _zoom_inside(path: Tensor, height: int, width: int) -> Tensor:
    """The largest factors (V,) <= 1 by which each view's image of the frame can be scaled to lie inside the
    frame.

    A homography maps the rectangle of pixel centres to a convex quadrilateral, so its corners decide.
    """
    limit = torch.tensor([1 - 1 / width, 1 - 1 / height], device=path.device)[:, None]
    signs = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]], device=path.device)
    corners = _apply(path, limit * signs)
    return (limit / corners.abs()).flatten(1).amin(1).clamp_max(1.0)


def _scaled(path: Tensor, factor: Tensor) -> Tensor:
    scale = torch.stack([factor, factor, torch.ones_like(factor)], dim=-1)
    return scale[..., None] * path


def _sample(clip: Tensor, path: Tensor) -> Tensor:
    times, channels, height, width = clip.shape
    size = torch.tensor([width, height], device=clip.device)[:, None, None]
    positions = _apply(path, pixel_positions(height, width, clip.device) / size * 2 - 1).to(clip.dtype)
    # The frames of a clip share a view's positions: sample them as channels of one image.
    stacked = clip.flatten(0, 1).expand(len(path), -1, -1, -1)
    sampled = torch.nn.functional.grid_sample(
        stacked, positions.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
    )
    return sampled.unflatten(1, (times, channels))


def _check_frames(name: str, frames: Tensor, dimensions: int) -> None:
    expected = "(T, 3, H, W)" if dimensions == 4 else "(3, H, W)"
    if frames.ndim != dimensions or frames.shape[-3] != 3 or not frames.is_floating_point():
        raise ValueError(
            f"{name}: got {frames.dtype} of shape {tuple(frames.shape)}, expected floating point {expected}"
        )
