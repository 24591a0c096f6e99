"""First hits of camera rays on a scene's objects and ground."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cameras import camera_centre
from .primitives import MISS, entry_distance
from .scenes import Scene

SKY = -1
_GROUND_LIMIT = 40.0


@dataclass(frozen=True)
class FramePoses:
    """Cameras and objects of B frames: eye (B, 3, 1), camera (B, 3, 3) camera to world, rotation (B, n, 3,
    3), position (B, n, 3, 1), to_unit (B, n, 3, 3) world to the unit coordinates of each primitive.
    """

    eye: Tensor
    camera: Tensor
    rotation: Tensor
    position: Tensor
    to_unit: Tensor


def frame_poses(scene: Scene, view: Tensor, time: Tensor) -> FramePoses:
    world_to_camera, rotation = scene.world_to_camera[view], scene.rotation[time]
    return FramePoses(
        eye=camera_centre(world_to_camera)[..., None],
        camera=world_to_camera[:, :3, :3].mT.contiguous(),
        rotation=rotation,
        position=scene.position[time][..., None],
        to_unit=rotation.mT / scene.half_size[None, :, :, None],
    )


def trace_rays(kinds: list[int], poses: FramePoses, direction: Tensor) -> tuple[Tensor, Tensor]:
    """First hits of rays from the eyes along `direction` (B, 3, P): distance (B, P), 0 at the sky, and
    instance.
    """
    distances = []
    for index, kind in enumerate(kinds):
        to_unit = poses.to_unit[:, index]
        origin = to_unit @ (poses.eye - poses.position[:, index])
        distances.append(entry_distance(kind, origin, to_unit @ direction))
    down = -direction[:, 2]
    ground = poses.eye[:, 2] / down.clamp_min(1e-6)
    distances.append(torch.where(ground < _GROUND_LIMIT, ground, MISS))
    distance, instance = torch.stack(distances).min(0)
    hit = distance < MISS / 2
    return torch.where(hit, distance, 0.0), torch.where(hit, instance, SKY)


def flatten_rays(values: Tensor) -> Tensor:
    """(B, 3, P) as (3, B * P)."""
    return values.transpose(0, 1).reshape(3, -1)
