"""Trajectories of a scene's objects: apart from one another, in frame from every view, and visibly moving."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .primitives import bounding_radius, footprint_radius, support_height
from .scene_family import SceneFamily

_CANDIDATES = 64
_ROUNDS = 40
_CHECKED_TIMES = 29
_REFERENCE_SIZE = 64


@dataclass(frozen=True)
class Trajectories:
    """Continuous motion of n objects over the clip, whose times run from 0 to 1. Angles in radians.

    `middle` (n, 2): ground position at time 1/2. `velocity` (n, 2): travel over the clip. `hop_height` (n,),
    `hops` (n,), `hop_phase` (n,): the height |sin(pi * (hops * time) + phase)| * hop_height above rest.
    `spin_axis` (n, 3) unit, `spin_angle` (n,): turn over the clip, `spin_start` (n,).
    `kind` (n,) and `half_size` (n, 3) fix the height at which an object rests on the ground.
    """

    middle: Tensor
    velocity: Tensor
    hop_height: Tensor
    hops: Tensor
    hop_phase: Tensor
    spin_axis: Tensor
    spin_angle: Tensor
    spin_start: Tensor
    kind: Tensor
    half_size: Tensor

    def at(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (T, n, 3) and rotations (T, n, 3, 3), object to world, at times (T,) in [0, 1]."""
        time = time[:, None]
        rotation = axis_angle_matrix(self.spin_axis, self.spin_start + self.spin_angle * time)
        ground = self.middle + self.velocity * (time[..., None] - 0.5)
        hop = self.hop_height * (math.pi * self.hops * time + self.hop_phase).sin().abs()
        height = support_height(self.kind, self.half_size, rotation) + hop
        return torch.cat([ground, height[..., None]], dim=-1), rotation

    def to(self, device: torch.device | str) -> Trajectories:
        """The same motion with its tensors on `device`."""
        return Trajectories(*(getattr(self, field.name).to(device) for field in fields(self)))


def axis_angle_matrix(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotations (..., 3, 3) by `angle` (...) radians about unit `axis` (..., 3) (Rodrigues)."""
    x, y, z = axis.expand(*angle.shape, 3).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    sine, cosine = angle.sin()[..., None, None], angle.cos()[..., None, None]
    return torch.eye(3, device=axis.device) + sine * cross + (1 - cosine) * (cross @ cross)


def place_objects(
    family: SceneFamily, kind: Tensor, half_size: Tensor, world_to_camera: Tensor, generator: torch.Generator
) -> Trajectories:
    """Draw trajectories until they satisfy the family, for objects `kind` (n,), `half_size` (n, 3).

    `world_to_camera` (V, 4, 4) are views spread over the camera arc. Candidates are drawn and checked in
    groups; a group without a valid one is followed by a group with slightly shorter travel. Raises
    RuntimeError if none is ever found, which the presets do not do.
    """
    hop_and_spin = _sample_hop_and_spin(family, len(kind), generator)
    checked = torch.linspace(0, 1, _CHECKED_TIMES)
    for attempt in range(_ROUNDS):
        middle, velocity = _propose(family, len(kind), 0.97**attempt, generator)
        candidates = Trajectories(middle, velocity, *hop_and_spin, kind, half_size)
        position = _candidate_positions(candidates, checked)
        valid = (
            _apart(family, kind, half_size, position)
            & _in_frame_and_moving(family, position, world_to_camera)
        ).nonzero()
        if len(valid):
            chosen = int(valid[0])
            return Trajectories(middle[chosen], velocity[chosen], *hop_and_spin, kind, half_size)
    raise RuntimeError(f"family: no valid placement found for family {family.name!r}; relax its ranges")


def _sample_hop_and_spin(family: SceneFamily, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    def happens(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    hop_height = uniform(*family.hop_height) * happens(family.hop_probability)
    hops, phase = uniform(*family.hops), uniform(0.0, math.pi)
    tilt = torch.tensor([family.spin_axis_tilt, family.spin_axis_tilt, 0.0])
    axis = torch.randn(count, 3, generator=generator) * tilt + torch.tensor([0.0, 0.0, 1.0])
    angle = torch.deg2rad(uniform(*family.spin_degrees)) * happens(family.spin_probability)
    angle = torch.where(happens(0.5), angle, -angle)
    return (
        hop_height,
        hops,
        phase,
        torch.nn.functional.normalize(axis, dim=-1),
        angle,
        uniform(0.0, 2 * math.pi),
    )


def _propose(
    family: SceneFamily, count: int, shrink: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    def random() -> Tensor:
        return torch.rand(_CANDIDATES, count, generator=generator)

    radius, angle = family.placement_radius * random().sqrt(), 2 * math.pi * random()
    middle = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    low, high = family.travel
    travel = (low + (high - low) * random()) * (random() < family.moving_probability) * shrink
    heading = 2 * math.pi * random()
    return middle, torch.stack([travel * heading.cos(), travel * heading.sin()], dim=-1)


def _candidate_positions(candidates: Trajectories, time: Tensor) -> Tensor:
    """Positions (K, T, n, 3) of K candidates that share everything but `middle` and `velocity` (K, n, 2)."""
    first = Trajectories(
        candidates.middle[0],
        candidates.velocity[0],
        *(getattr(candidates, field.name) for field in fields(Trajectories)[2:]),
    )
    height = first.at(time)[0][..., 2:]
    ground = candidates.middle[:, None] + candidates.velocity[:, None] * (time[:, None, None] - 0.5)
    return torch.cat([ground, height.expand(len(ground), -1, -1, -1)], dim=-1)


def _apart(family: SceneFamily, kind: Tensor, half_size: Tensor, position: Tensor) -> Tensor:
    radius = (footprint_radius if family.upright else bounding_radius)(kind, half_size)
    distance = (position[..., :, None, :2] - position[..., None, :, :2]).norm(dim=-1)
    needed = radius[:, None] + radius[None] + family.gap
    needed.fill_diagonal_(0.0)
    return (distance >= needed).flatten(1).all(-1)


def _in_frame_and_moving(family: SceneFamily, position: Tensor, world_to_camera: Tensor) -> Tensor:
    image = _project(position, world_to_camera) / math.tan(math.radians(family.field_of_view_degrees) / 2)
    inside = (image.abs() <= 1 - 2 * family.frame_margin).flatten(1).all(-1)
    pixels = image * (_REFERENCE_SIZE / 2)
    motion = (pixels.amax(2) - pixels.amin(2)).norm(dim=-1)
    low, high = family.motion_pixels
    clearly_moving = (motion.amin(1) >= low).any(-1)
    return inside & clearly_moving & (motion <= high).flatten(1).all(-1)


def _project(position: Tensor, world_to_camera: Tensor) -> Tensor:
    """Normalised image coordinates (K, V, T, n, 2) of positions (K, T, n, 3) in views (V, 4, 4)."""
    rotation, shift = world_to_camera[:, :3, :3], world_to_camera[:, :3, 3]
    camera = torch.einsum("vij,ktnj->kvtni", rotation, position) + shift[None, :, None, None]
    return camera[..., :2] / camera[..., 2:]
