"""The compact form in which rendered grids are kept, in shards on disk and in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .geometry import GivenFlow, flow_to_given
from .renderer import render
from .scene_family import SceneFamily
from .scenes import sample_scene

_FLOW_LIMIT = 127


@dataclass(frozen=True)
class GridSample:
    """One stored grid: `frames` (V, T, 3, H, W) uint8, its matches in the given frames, its seed."""

    frames: Tensor
    flow: GivenFlow
    seed: int


def flow_unit(size: int) -> float:
    """Pixels per step of the stored int8 flows of an image `size` pixels wide: a quarter pixel at 64."""
    return size / 256


def render_stored(
    seed: int,
    family: str | SceneFamily = "easy",
    size: int = 64,
    *,
    views: int = 8,
    times: int = 8,
    supersample: int = 2,
    light_samples: int = 4,
    chunk: int = 1,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Render a seed's grid of `size` x `size` frames on `device`, where the result stays.

    Tensors: `frames` (V, T, 3, H, W) uint8; `flow_from_freeze`, `flow_from_fixed` (V, T, 2, H, W) int8 in
    steps of `flow_unit(size)` pixels; `visible_from_freeze`, `visible_from_fixed` (V, T, H, ceil(W / 8))
    uint8, the eight pixels of a byte from the lowest bit. Flows beyond 127 steps are marked not visible.
    """
    scene = sample_scene(seed, views, times, family).to(device)
    grid = render(scene, size, size, supersample=supersample, light_samples=light_samples, chunk=chunk)
    flow, unit = flow_to_given(grid), flow_unit(size)
    stored = {"frames": (grid.frames * 255).round().to(torch.uint8)}
    for source in ("freeze", "fixed"):
        steps = (getattr(flow, f"flow_from_{source}") / unit).round()
        within = (steps.abs() <= _FLOW_LIMIT).all(2)
        stored[f"flow_from_{source}"] = steps.clamp(-_FLOW_LIMIT, _FLOW_LIMIT).to(torch.int8)
        stored[f"visible_from_{source}"] = pack_bits(getattr(flow, f"visible_from_{source}") & within)
    return stored


def read_stored(stored: Mapping[str, Tensor], seed: int, unit: float) -> GridSample:
    """The sample in the tensors of `render_stored`, whose flows have steps of `unit` pixels."""
    width = stored["frames"].shape[-1]
    flow = GivenFlow(
        flow_from_freeze=stored["flow_from_freeze"].float() * unit,
        visible_from_freeze=unpack_bits(stored["visible_from_freeze"], width),
        flow_from_fixed=stored["flow_from_fixed"].float() * unit,
        visible_from_fixed=unpack_bits(stored["visible_from_fixed"], width),
    )
    return GridSample(stored["frames"], flow, seed)


def pack_bits(mask: Tensor) -> Tensor:
    """Bool (..., W) as uint8 (..., ceil(W / 8)), the first pixel in the lowest bit."""
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -mask.shape[-1] % 8)).unflatten(-1, (-1, 8))
    weight = 2 ** torch.arange(8, device=mask.device, dtype=torch.uint8)
    return (padded * weight).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, width: int) -> Tensor:
    """The inverse of `pack_bits` for a last dimension of `width`."""
    weight = 2 ** torch.arange(8, device=packed.device, dtype=torch.uint8)
    return ((packed[..., None] & weight) != 0).flatten(-2)[..., :width]
