"""Soft shadows of a disc light."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .primitives import UNIT_RADIUS, entry_distance
from .scenes import Scene
from .tracing import FramePoses, flatten_rays

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def light_offsets(scene: Scene, height: int, width: int, supersample: int, light_samples: int) -> Tensor:
    """Offsets (S, 3, P) of points on the disc light from its centre. Every sub-pixel turns the pattern, so a
    pixel averages more points than any of its rays casts.
    """
    device = scene.light.device
    y, x = torch.meshgrid(
        torch.arange(height * supersample, device=device) % supersample,
        torch.arange(width * supersample, device=device) % supersample,
        indexing="ij",
    )
    sub_pixel = (y * supersample + x).flatten() / supersample**2
    sample = torch.arange(light_samples, device=device)[:, None]
    angle = _GOLDEN_ANGLE * (sample + sub_pixel * light_samples * supersample**2)
    radius = scene.light_radius * ((sample + 0.5 + 0.5 * (sub_pixel - 0.5)) / max(light_samples, 1)).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), torch.zeros_like(angle)], dim=1)


def light_share(scene: Scene, kinds: list[int], poses: FramePoses, point: Tensor, lights: Tensor) -> Tensor:
    """Share (B, P) of the light's points, `lights` (S, 3, P) from its centre, seen from points (B, 3, P).

    Objects are convex, so a ray leaving a surface never enters its own object: only other objects block it,
    and the diffuse term darkens the side turned away.
    """
    if len(lights) == 0:
        return torch.ones_like(point[:, 0])
    frames, _, pixels = point.shape
    blocked = torch.zeros(len(lights), frames * pixels, dtype=torch.bool, device=point.device)
    for index, kind in enumerate(kinds):
        to_unit, position = poses.to_unit[:, index], poses.position[:, index]
        origin = to_unit @ (point - position)
        centre = to_unit @ (scene.light[:, None] - position) - origin
        reach = UNIT_RADIUS[kind], scene.light_radius / scene.half_size[index].min()
        chosen = _may_be_shadowed(origin, centre, *reach)
        near_origin, near_centre = flatten_rays(origin)[:, chosen], flatten_rays(centre)[:, chosen]
        for sample, offset in enumerate(lights):
            towards = near_centre + flatten_rays(to_unit @ offset)[:, chosen]
            blocked[sample, chosen] |= (entry_distance(kind, near_origin[None], towards[None]) < 1)[0]
    return 1 - blocked.float().mean(0).view(frames, pixels)


def _may_be_shadowed(
    origin: Tensor, to_light: Tensor, unit_radius: float, unit_light_radius: Tensor
) -> Tensor:
    """Flat indices (M,) of the rays that a primitive can block, for unit coordinates (B, 3, P).

    The rays from a point to the light disc lie in a cone round the ray to its centre. The cone meets the
    primitive's bounding sphere only if that ray passes the sphere's centre within the cone's width there
    plus the sphere's radius, lengthened by the secant of the cone's half angle.
    """
    squared_length = (to_light * to_light).sum(1)
    along = (-(origin * to_light).sum(1) / squared_length).clamp(0, 1)
    passing = origin + along[:, None] * to_light
    secant = (1 + unit_light_radius**2 / squared_length).sqrt()
    reach = unit_radius * secant + along * unit_light_radius
    return ((passing * passing).sum(1) < reach * reach).flatten().nonzero()[:, 0]
