"""Corrupted copies of true grids, to see which metric notices what."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..data.geometry import pixel_positions, warp

JITTER_PIXELS = 3.0
GAINS = (0.85, 1.15)
Grids = Sequence[Tensor]


def time_frozen(grids: Grids, generator: torch.Generator) -> list[Tensor]:
    """Every view keeps its first frame."""
    return [grid[:, :1].expand_as(grid) for grid in grids]


def time_shuffled(grids: Grids, generator: torch.Generator) -> list[Tensor]:
    """Every view has its timesteps in an order of its own."""
    return [torch.stack([view[torch.randperm(len(view), generator=generator)] for view in grid]) for grid in grids]


def views_swapped(grids: Grids, generator: torch.Generator) -> list[Tensor]:
    """View v of each grid comes from the v-th next scene: neighbouring views show different scenes."""
    return [
        torch.stack([grids[(index + view) % len(grids)][view] for view in range(len(grid))])
        for index, grid in enumerate(grids)
    ]


def jittered(grids: Grids, generator: torch.Generator) -> list[Tensor]:
    """Every frame is shifted by 3 pixels in a direction of its own; the border is repeated."""
    result = []
    for grid in grids:
        angle = 2 * math.pi * torch.rand(grid.shape[:2], generator=generator)
        shift = JITTER_PIXELS * torch.stack([angle.cos(), angle.sin()], dim=-1)[..., None, None]
        result.append(warp(grid, pixel_positions(*grid.shape[-2:]) + shift))
    return result


def colour_gain(grids: Grids, generator: torch.Generator) -> list[Tensor]:
    """Every channel of every frame is multiplied by a gain of its own from [0.85, 1.15]."""
    low, high = GAINS
    return [
        (grid * (low + (high - low) * torch.rand(*grid.shape[:3], 1, 1, generator=generator))).clamp(0, 1)
        for grid in grids
    ]


CORRUPTIONS: dict[str, Callable[[Grids, torch.Generator], list[Tensor]]] = {
    "time frozen": time_frozen,
    "time shuffled": time_shuffled,
    "views of other scenes": views_swapped,
    "jitter of 3 px": jittered,
    "colour gain 0.85-1.15": colour_gain,
}
