"""Solid textures: functions of a point fixed to the object, so that they move and turn with it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

CHECKER, STRIPE, DOTS, NOISE = 0, 1, 2, 3
TEXTURE_NAMES = ("checkered", "striped", "dotted", "marbled")
_TABLE_SIDE = 32
_DOT_RADIUS = 0.36


def texture_mix(texture: int, point: Tensor) -> Tensor:
    """Share (M,) in [0, 1] of an object's first colour at points (3, M), measured in texture features.

    A feature is one checker cell, one stripe, one dot or one blob of noise.
    """
    if texture == CHECKER:
        return parity(point.floor().sum(0))
    if texture == STRIPE:
        return parity((0.6 * point[0] + 0.8 * point[2]).floor())
    if texture == DOTS:
        return _dots(point)
    return ((value_noise(point) - 0.5) * 3 + 0.5).clamp(0, 1)


def parity(cell: Tensor) -> Tensor:
    """0 for even and 1 for odd whole numbers, of the dtype of `cell` (`%` is slow on a CPU)."""
    half = cell * 0.5
    return (half - half.floor()) * 2


def _dots(point: Tensor) -> Tensor:
    # Balls on a body-centred lattice: every plane through it, at any offset, shows dots.
    lattice = point / 2.4
    corner = ((lattice - lattice.round()) ** 2).sum(0)
    centre = ((lattice - lattice.floor() - 0.5) ** 2).sum(0)
    return (torch.minimum(corner, centre) < _DOT_RADIUS**2).to(point.dtype)


def value_noise(point: Tensor) -> Tensor:
    """Smooth noise (M,) in [0, 1] at points (3, M), one random value per unit cell, period 32."""
    low = point.floor()
    weight = point - low
    x, y, z = (weight * weight * (3 - 2 * weight)).unbind(0)
    low = low.long() & (_TABLE_SIDE - 1)
    high = (low + 1) & (_TABLE_SIDE - 1)
    stride = torch.tensor([_TABLE_SIDE**2, _TABLE_SIDE, 1], device=point.device)[:, None]
    (x0, y0, z0), (x1, y1, z1) = low * stride, high * stride
    table = _noise_table(point.device)
    near = torch.lerp(_edge(table, x0 + y0, z0, z1, z), _edge(table, x0 + y1, z0, z1, z), y)
    far = torch.lerp(_edge(table, x1 + y0, z0, z1, z), _edge(table, x1 + y1, z0, z1, z), y)
    return torch.lerp(near, far, x)


def _edge(table: Tensor, base: Tensor, z0: Tensor, z1: Tensor, weight: Tensor) -> Tensor:
    return torch.lerp(table[base + z0], table[base + z1], weight)


@lru_cache(maxsize=8)
def _noise_table(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(_TABLE_SIDE**3, generator=generator).to(device)
