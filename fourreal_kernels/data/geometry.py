"""Exact correspondences between the frames of a rendered grid, from its depth, instances and poses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cameras import pixel_rays
from .renderer import GridRender
from .tracing import SKY

DEPTH_TOLERANCE = 0.02


@dataclass(frozen=True)
class GivenFlow:
    """Where each pixel of a grid appears in the two given frames of its view and of its timestep.

    Frame (v, t) has a match in the freeze-time video, frame (v, 0), and one in the fixed-view video, frame
    (0, t). Flows (V, T, 2, H, W) are float32 displacements (dx, dy) in pixels from the pixel to its match:
    sampling the given frame at pixel + flow reproduces the frame. `visible_*` (V, T, H, W) bool: the match is
    in frame and not hidden. A field is None where the source of the data does not determine it.
    """

    flow_from_freeze: Tensor | None
    visible_from_freeze: Tensor | None
    flow_from_fixed: Tensor | None
    visible_from_fixed: Tensor | None


def flow_to_given(render: GridRender) -> GivenFlow:
    """Correspondences of every frame of a grid with the given frames of its view and its timestep."""
    view, time = _frame_indices(render)
    pixels = pixel_positions(*render.depth.shape[2:], device=render.depth.device)
    freeze, visible_freeze = surface_flow(render, view, torch.zeros_like(time))
    fixed, visible_fixed = surface_flow(render, torch.zeros_like(view), time)
    return GivenFlow(freeze - pixels, visible_freeze, fixed - pixels, visible_fixed)


@torch.no_grad()
def surface_flow(render: GridRender, source_view: Tensor, source_time: Tensor) -> tuple[Tensor, Tensor]:
    """Positions at which the surface points seen in every frame appear in other frames of the same grid.

    `source_view`, `source_time`: int64, broadcastable to (V, T); frame (v, t) is matched with frame
    (source_view[v, t], source_time[v, t]). Points move with their object; the sky is infinitely far.

    Returns positions (V, T, 2, H, W) float32 in pixels (x, y), pixel centres at half-integers, and visibility
    (V, T, H, W) bool: in frame, of the same instance as the nearest pixel there, and not behind it by more
    than 2 % of its depth. Positions behind the source camera are set to -1.
    """
    grid, (height, width) = render.depth.shape[:2], render.depth.shape[2:]
    source_view, source_time = source_view.expand(grid), source_time.expand(grid)
    sky_index = render.object_position.shape[1] + 1
    instance = torch.where(render.instance == SKY, sky_index, render.instance).flatten(2)
    depth = torch.where(instance == sky_index, 1.0, render.depth.flatten(2))
    rays = pixel_rays(height, width, render.intrinsics)
    points = torch.cat([rays * depth[:, :, None], torch.ones_like(depth)[:, :, None]], dim=2)
    transform = _camera_to_source(render, source_view, source_time).flatten(3)
    rows = transform.gather(2, instance[..., None].expand(-1, -1, -1, 12)).unflatten(3, (3, 4))
    source = (rows * points.mT[..., None, :]).sum(-1)
    in_front = source[..., 2] > 1e-4
    projected = (source @ render.intrinsics.T)[..., :2] / source[..., 2:].clamp_min(1e-4)
    position = torch.where(in_front[..., None], projected, -1.0)
    visible = _is_visible(render, source_view, source_time, position, source[..., 2], instance, sky_index)
    return position.mT.unflatten(-1, (height, width)), visible.unflatten(-1, (height, width))


def pixel_positions(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Pixel centres (2, H, W) float32 as (x, y)."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    return torch.stack([x, y])


def warp(frames: Tensor, position: Tensor, mode: str = "bilinear") -> Tensor:
    """Samples (..., C, H, W) of `frames` (..., C, H, W) at positions (..., 2, H, W) in pixels (x, y), pixel
    centres at half-integers; positions outside take the nearest border value. `mode` is "bilinear" or "bicubic".
    """
    height, width = frames.shape[-2:]
    size = torch.tensor([width, height], device=frames.device, dtype=position.dtype)
    coordinates = position.flatten(0, -4).permute(0, 2, 3, 1) / size * 2 - 1
    sampled = torch.nn.functional.grid_sample(
        frames.flatten(0, -4), coordinates, mode=mode, padding_mode="border", align_corners=False
    )
    return sampled.view(frames.shape)


def _frame_indices(render: GridRender) -> tuple[Tensor, Tensor]:
    views, times = render.depth.shape[:2]
    device = render.depth.device
    view, time = torch.meshgrid(
        torch.arange(views, device=device), torch.arange(times, device=device), indexing="ij"
    )
    return view, time


def _camera_to_source(render: GridRender, source_view: Tensor, source_time: Tensor) -> Tensor:
    """Affine maps (V, T, n + 2, 3, 4) from camera (v, t) to the source camera: per object, ground, sky."""
    _, time = _frame_indices(render)
    turn = render.object_rotation[source_time] @ render.object_rotation[time].mT
    shift = render.object_position[source_time] - (turn @ render.object_position[time][..., None])[..., 0]
    still = torch.eye(3, device=turn.device).expand(*turn.shape[:2], 2, 3, 3)
    turn = torch.cat([turn, still], dim=2)
    shift = torch.cat([shift, torch.zeros_like(still[..., 0])], dim=2)

    camera = render.world_to_camera[:, None, None]
    to_world = camera[..., :3, :3].mT
    centre = -to_world @ camera[..., :3, 3:]
    target = render.world_to_camera[source_view][:, :, None]
    linear = target[..., :3, :3] @ turn @ to_world
    offset = target[..., :3, :3] @ (turn @ centre + shift[..., None]) + target[..., :3, 3:]
    offset[:, :, -1] = 0.0
    return torch.cat([linear, offset], dim=-1)


def _is_visible(
    render: GridRender,
    source_view: Tensor,
    source_time: Tensor,
    position: Tensor,
    distance: Tensor,
    instance: Tensor,
    sky_index: int,
) -> Tensor:
    height, width = render.depth.shape[2:]
    x, y = position.unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    nearest = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
    seen_instance = render.instance[source_view, source_time].flatten(2).gather(2, nearest)
    seen_depth = render.depth[source_view, source_time].flatten(2).gather(2, nearest)
    same = torch.where(seen_instance == SKY, sky_index, seen_instance) == instance
    in_front = (distance <= seen_depth * (1 + DEPTH_TOLERANCE)) | (instance == sky_index)
    return inside & same & in_front
