"""Colours of ray hits: textures, soft light, gloss, fog and sky."""

from __future__ import annotations

import torch
from torch import Tensor

from .lights import light_share
from .primitives import unit_normal
from .scenes import Scene
from .textures import parity, texture_mix, value_noise
from .tracing import SKY, FramePoses, flatten_rays, trace_rays

_FOG_DISTANCE = 14.0
_AMBIENT, _AMBIENT_FROM_ABOVE, _DIFFUSE, _GLOSS = 0.50, 0.12, 0.52, 0.2


def shade(
    scene: Scene, kinds: list[int], textures: list[int], poses: FramePoses, direction: Tensor, lights: Tensor
) -> Tensor:
    """Colours (B, 3, P) in [0, 1] seen along `direction` (B, 3, P)."""
    distance, instance = trace_rays(kinds, poses, direction)
    point = poses.eye + distance[:, None] * direction
    normal, albedo = _surfaces(scene, kinds, textures, poses, point, instance)
    lit = light_share(scene, kinds, poses, point, lights)[:, None]

    to_light = _normalised(scene.light[:, None] - point)
    to_sky = _normalised(direction)
    diffuse = (normal * to_light).sum(1, keepdim=True).clamp_min(0) * lit
    half_way = _normalised(to_light - to_sky)
    gloss = (normal * half_way).sum(1, keepdim=True).clamp_min(0)
    for _ in range(5):  # the 32nd power, cheaper than pow on a CPU
        gloss = gloss * gloss
    gloss = gloss * lit * (_GLOSS * (instance < len(kinds)))[:, None]
    ambient = _AMBIENT + _AMBIENT_FROM_ABOVE * normal[:, 2:]
    colour = albedo * (ambient + _DIFFUSE * diffuse) + gloss

    sky = torch.lerp(scene.sky_rgb[0][:, None], scene.sky_rgb[1][:, None], (to_sky[:, 2:] * 2).clamp(0, 1))
    clear = torch.exp(-((distance / _FOG_DISTANCE) ** 2)) * (instance != SKY)
    return torch.lerp(sky, colour, clear[:, None]).clamp_(0, 1)


def _surfaces(
    scene: Scene, kinds: list[int], textures: list[int], poses: FramePoses, point: Tensor, instance: Tensor
) -> tuple[Tensor, Tensor]:
    """World normals and albedo, both (B, 3, P), at points (B, 3, P); zero at the sky."""
    frames, _, pixels = point.shape
    flat = flatten_rays(point)
    instance = instance.flatten()
    normal, albedo = torch.zeros_like(flat), torch.zeros_like(flat)
    for index, (kind, texture) in enumerate(zip(kinds, textures, strict=True)):
        chosen = (instance == index).nonzero()[:, 0]
        frame = chosen // pixels
        unit = flatten_rays(poses.to_unit[:, index] @ (point - poses.position[:, index]))[:, chosen]
        # Normals transform by the inverse transpose of unit-to-world, which is `to_unit` transposed.
        outward = (poses.to_unit[frame, index].permute(2, 1, 0) * unit_normal(kind, unit)).sum(1)
        normal[:, chosen] = _normalised(outward[None])[0]
        albedo[:, chosen] = _object_albedo(scene, index, texture, unit * scene.half_size[index][:, None])
    ground = (instance == len(kinds)).nonzero()[:, 0]
    normal[2, ground] = 1.0
    albedo[:, ground] = _ground_albedo(scene, flat[:, ground])
    unflatten = (3, frames, pixels)
    return normal.view(unflatten).transpose(0, 1), albedo.view(unflatten).transpose(0, 1)


def _object_albedo(scene: Scene, index: int, texture: int, point: Tensor) -> Tensor:
    feature = point / scene.feature_size[index] + scene.texture_offset[index][:, None]
    first, second = scene.colour_rgb[index]
    shade = 0.9 + 0.2 * value_noise(feature * 0.7 + 5.0)
    return torch.lerp(second[:, None], first[:, None], texture_mix(texture, feature)) * shade


def _ground_albedo(scene: Scene, point: Tensor) -> Tensor:
    feature = point / scene.ground_feature_size
    mix = parity(feature[0].floor() + feature[1].floor()) * 0.6 + 0.4 * value_noise(feature * 1.5 + 9.0)
    return torch.lerp(scene.ground_rgb[0][:, None], scene.ground_rgb[1][:, None], mix)


def _normalised(vector: Tensor) -> Tensor:
    """Unit vectors along dimension 1; several times faster on a CPU than `torch.nn.functional.normalize`
    there.
    """
    return vector * (vector * vector).sum(1, keepdim=True).clamp_min(1e-12).rsqrt()
