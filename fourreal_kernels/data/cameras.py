"""Pinhole cameras in the OpenCV convention: x right, y down, z forward, pixel centres at half-integers."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def intrinsics(height: int, width: int, field_of_view_degrees: float) -> Tensor:
    """Intrinsic matrix (3, 3) float32 in pixels.

    The field of view spans the shorter image side, so that a wider or taller image shows more of the scene
    and never less. Pixel (i, j) (x = j, y = i) has its centre at (j + 0.5, i + 0.5).
    """
    focal = 0.5 * min(height, width) / math.tan(math.radians(field_of_view_degrees) / 2)
    return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def look_at(eye: Tensor, target: Tensor) -> Tensor:
    """World-to-camera matrices (..., 4, 4) of cameras at `eye` (..., 3) looking at `target` (..., 3), world z
    up.
    """
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=eye.dtype, device=eye.device).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)
    rotation = torch.stack([right, down, forward], dim=-2)
    matrix = torch.zeros(*eye.shape[:-1], 4, 4, dtype=eye.dtype, device=eye.device)
    matrix[..., :3, :3] = rotation
    matrix[..., :3, 3:] = -rotation @ eye[..., None]
    matrix[..., 3, 3] = 1.0
    return matrix


def orbit(azimuth: Tensor, elevation: Tensor, distance: Tensor, target: Tensor) -> Tensor:
    """World-to-camera matrices (V, 4, 4) of cameras on a circle round `target` (3,).

    `azimuth` (V,) in radians, `elevation` () in radians above the horizon, `distance` () in world units.
    """
    height = elevation.sin().expand_as(azimuth)
    offset = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), height], dim=-1)
    return look_at(target + distance * offset, target.expand_as(offset))


def pixel_rays(height: int, width: int, intrinsic: Tensor, samples: int = 1) -> Tensor:
    """Camera-space ray directions (3, height*samples * width*samples) with z = 1.

    `samples` rays per pixel side, placed at the centres of the sub-pixels; with 1 the rays pass through the
    pixel centres. Since z = 1, the distance along a ray is the z-depth.
    """
    device = intrinsic.device
    y = (torch.arange(height * samples, device=device) + 0.5) / samples
    x = (torch.arange(width * samples, device=device) + 0.5) / samples
    y, x = torch.meshgrid(y, x, indexing="ij")
    rays = torch.stack(
        [
            (x - intrinsic[0, 2]) / intrinsic[0, 0],
            (y - intrinsic[1, 2]) / intrinsic[1, 1],
            torch.ones_like(x),
        ]
    )
    return rays.reshape(3, -1)


def camera_centre(world_to_camera: Tensor) -> Tensor:
    """World positions (..., 3) of cameras (..., 4, 4)."""
    return -(world_to_camera[..., :3, :3].mT @ world_to_camera[..., :3, 3:])[..., 0]
