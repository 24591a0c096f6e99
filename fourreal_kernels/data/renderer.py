"""Analytic ray tracer in plain torch: exact hits, solid textures, soft shadows; CPU and CUDA alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cameras import intrinsics, pixel_rays
from .lights import light_offsets
from .scenes import Scene
from .shading import shade
from .threads import one_thread
from .tracing import frame_poses, trace_rays

_ONE_THREAD_RAYS = 1 << 17


@dataclass(frozen=True)
class GridRender:
    """A rendered grid of V views x T times with its geometry. n objects.

    Attributes:
        frames (V, T, 3, H, W): float32 in [0, 1].
        depth (V, T, H, W): float32 z-depth at pixel centres, 0 where the ray meets the sky.
        instance (V, T, H, W): int64 at pixel centres; -1 sky, 0..n-1 objects, n ground.
        intrinsics (3, 3), world_to_camera (V, 4, 4): OpenCV convention, pixel centres at half-integers.
        object_rotation (T, n, 3, 3), object_position (T, n, 3): object to world.
    """

    frames: Tensor
    depth: Tensor
    instance: Tensor
    intrinsics: Tensor
    world_to_camera: Tensor
    object_rotation: Tensor
    object_position: Tensor


@torch.no_grad()
def render(
    scene: Scene,
    height: int = 64,
    width: int = 64,
    *,
    supersample: int = 2,
    light_samples: int = 4,
    chunk: int = 1,
) -> GridRender:
    """Render every frame of a scene's grid, on the device of the scene's tensors.

    `supersample` rays per pixel side are averaged; each casts `light_samples` shadow rays to the disc light
    (0: no shadows). `chunk` frames are rendered together: 1 suits a CPU cache, a whole grid suits a GPU.
    Raises ValueError for a size, `supersample` or `chunk` below 1, or a negative `light_samples`.
    """
    for name, value, least in (
        ("height", height, 1),
        ("width", width, 1),
        ("supersample", supersample, 1),
        ("chunk", chunk, 1),
        ("light_samples", light_samples, 0),
    ):
        if value < least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
    rays = min(chunk, scene.views * scene.times) * height * width * supersample**2
    on_cpu = scene.position.device.type == "cpu"
    with one_thread(on_cpu and rays <= _ONE_THREAD_RAYS):
        return _render(scene, height, width, supersample, light_samples, chunk)


def _render(
    scene: Scene, height: int, width: int, supersample: int, light_samples: int, chunk: int
) -> GridRender:
    device = scene.position.device
    matrix = intrinsics(height, width, float(scene.field_of_view)).to(device)
    centre_rays = pixel_rays(height, width, matrix)
    colour_rays = pixel_rays(height, width, matrix, supersample)
    lights = light_offsets(scene, height, width, supersample, light_samples)
    kinds, textures = scene.kind.tolist(), scene.texture.tolist()
    frames, depths, instances = [], [], []
    for indices in torch.arange(scene.views * scene.times, device=device).split(chunk):
        poses = frame_poses(scene, indices // scene.times, indices % scene.times)
        depth, instance = trace_rays(kinds, poses, poses.camera @ centre_rays)
        depths.append(depth.view(-1, height, width))
        instances.append(instance.view(-1, height, width))
        colour = shade(scene, kinds, textures, poses, poses.camera @ colour_rays, lights)
        colour = colour.view(-1, 3, height * supersample, width * supersample)
        frames.append(torch.nn.functional.avg_pool2d(colour, supersample))
    grid = (scene.views, scene.times)
    return GridRender(
        frames=torch.cat(frames).unflatten(0, grid),
        depth=torch.cat(depths).unflatten(0, grid),
        instance=torch.cat(instances).unflatten(0, grid),
        intrinsics=matrix,
        world_to_camera=scene.world_to_camera,
        object_rotation=scene.rotation,
        object_position=scene.position,
    )
