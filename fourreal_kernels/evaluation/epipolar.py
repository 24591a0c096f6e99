"""Geometry of matched features: distance to epipolar lines between views, distance to the true position."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import GridRender
from .correspondence import Correspondence
from .matcher import Matches, match_frames

MOVING_PIXELS = 0.5


def match_pairs(frames: Tensor, pairs: Correspondence) -> list[Matches]:
    """Features of ``frames`` ``(V, T, 3, H, W)`` in [0, 1] matched within each of the P pairs."""
    return [
        match_frames(first, second) for first, second in zip(pairs.first(frames), pairs.second(frames), strict=True)
    ]


def fundamental_matrix(intrinsics: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """F ``(3, 3)`` float64 with ``x2' F x1 = 0`` for homogeneous pixels x1, x2 of one point of a still scene.

    With X2 = R X1 + t between the cameras: ``F = K^-T [t]_x R K^-1``.

    Args:
        intrinsics: ``(3, 3)``.
        first, second: ``(4, 4)`` world to camera, at different places.
    """
    relative = second.double() @ torch.linalg.inv(first.double())
    rotation, (x, y, z) = relative[:3, :3], relative[:3, 3]
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
    inverse = torch.linalg.inv(intrinsics.double())
    return inverse.T @ cross @ rotation @ inverse


def epipolar_distance(matches: Matches, fundamental: Tensor) -> Tensor:
    """``(K,)`` pixels: mean of both distances between a point and the epipolar line of its match."""
    ones = torch.ones(len(matches.first), 1, dtype=torch.float64)
    first = torch.cat([matches.first.double(), ones], dim=1)
    second = torch.cat([matches.second.double(), ones], dim=1)
    line_second, line_first = first @ fundamental.T, second @ fundamental
    product = (second * line_second).sum(1).abs()
    lengths = (line[:, :2].norm(dim=1).clamp_min(1e-12) for line in (line_first, line_second))
    return sum(product / length for length in lengths) / 2


def epipolar_errors(matches: list[Matches], render: GridRender, pairs: Correspondence) -> Tensor:
    """Epipolar distances ``(M,)`` in pixels of all matches between neighbouring views, by the true cameras.

    Raises:
        ValueError: pairs along time. The camera of a view stands still, so that there are no epipolar lines.
    """
    if pairs.axis != "view":
        raise ValueError(f"pairs: got pairs along {pairs.axis}, expected view: cameras that stand still have no lines")
    errors = [torch.zeros(0, dtype=torch.float64)]
    for found, view in zip(matches, pairs.view.tolist(), strict=True):
        cameras = render.world_to_camera[view], render.world_to_camera[view + 1]
        errors.append(epipolar_distance(found, fundamental_matrix(render.intrinsics, *cameras)))
    return torch.cat(errors)


def track_errors(matches: list[Matches], pairs: Correspondence) -> Tensor:
    """Distances ``(M,)`` in pixels between matches and the true positions, of visible points that truly move.

    Points whose true motion in the image is at most half a pixel are left out: on a still background a frozen video is
    right.
    """
    errors = [torch.zeros(0)]
    for found, position, visible in zip(matches, pairs.position, pairs.visible, strict=True):
        column, row = found.first.long().unbind(1)
        true = position[:, row, column].T
        kept = visible[row, column] & ((true - found.first).norm(dim=1) > MOVING_PIXELS)
        errors.append((found.second - true).norm(dim=1)[kept])
    return torch.cat(errors)
