"""Ray tests and normals of the three convex primitives, each in its own unit coordinates.

In unit coordinates an ellipsoid is the unit sphere, a box the cube [-1, 1]^3 and a capped cylinder the unit
disc times [-1, 1] along z. Rays start at `origin` and reach `origin + distance * direction`; both have shape
(B, 3, P) (the origin may be (B, 3, 1)), so a distance found here is valid in world space too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ELLIPSOID, BOX, CYLINDER = 0, 1, 2
KIND_NAMES = ("ball", "box", "cylinder")
# Radius of the sphere round each primitive in its unit coordinates.
UNIT_RADIUS = (1.0, math.sqrt(3), math.sqrt(2))
MISS = 1e9
_NEAREST = 1e-3
_TINY = 1e-9


def entry_distance(kind: int, origin: Tensor, direction: Tensor) -> Tensor:
    """Distance (B, P) at which each ray enters the primitive; `MISS` where it does not, or starts inside or
    past it.
    """
    if kind == ELLIPSOID:
        entry, hit = _sphere(origin, direction)
    elif kind == BOX:
        entry, hit = _box(origin, direction)
    else:
        entry, hit = _cylinder(origin, direction)
    return torch.where(hit & (entry > _NEAREST), entry, MISS)


def unit_normal(kind: int, point: Tensor) -> Tensor:
    """Outward normals (3, M), not normalised, at surface points (3, M) in unit coordinates."""
    if kind == ELLIPSOID:
        return point
    size = point.abs()
    if kind == BOX:
        return torch.where(size == size.amax(0), point.sign(), 0.0)
    on_side = (point[0] ** 2 + point[1] ** 2 > size[2] ** 2)[None]
    across = torch.tensor([1.0, 1.0, 0.0], device=point.device)[:, None]
    return torch.where(on_side, point * across, point.sign() * (1 - across))


def bounding_radius(kind: Tensor, half_size: Tensor) -> Tensor:
    """Radius (n,) of the sphere round each primitive: `kind` (n,), `half_size` (n, 3)."""
    across = torch.maximum(half_size[:, 0], half_size[:, 1])
    round_radius = torch.where(kind == ELLIPSOID, half_size.amax(-1), torch.hypot(across, half_size[:, 2]))
    return torch.where(kind == BOX, half_size.norm(dim=-1), round_radius)


def footprint_radius(kind: Tensor, half_size: Tensor) -> Tensor:
    """Radius (n,) of the upright cylinder round each primitive while it turns about the vertical only."""
    across = torch.maximum(half_size[:, 0], half_size[:, 1])
    return torch.where(kind == BOX, torch.hypot(half_size[:, 0], half_size[:, 1]), across)


def support_height(kind: Tensor, half_size: Tensor, rotation: Tensor) -> Tensor:
    """Height (..., n) of the centre above the ground when the primitive, turned by `rotation` (..., n, 3, 3),
    rests on it.
    """
    reach = rotation[..., 2, :].abs() * half_size
    cylinder = torch.hypot(reach[..., 0], reach[..., 1]) + reach[..., 2]
    return torch.where(
        kind == ELLIPSOID, reach.norm(dim=-1), torch.where(kind == BOX, reach.sum(-1), cylinder)
    )


def _sphere(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    a = (direction * direction).sum(1)
    b = (origin * direction).sum(1)
    c = (origin * origin).sum(1) - 1
    discriminant = b * b - a * c
    return (-b - discriminant.clamp_min(0).sqrt()) / a, discriminant > 0


def _slabs(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(direction.abs() < _TINY, _TINY, direction)
    centre, half = origin * inverse, inverse.abs()
    return -centre - half, half - centre


def _box(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    near, far = _slabs(origin, direction)
    near, far = near.amax(1), far.amin(1)
    return near, far > near


def _cylinder(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    ox, oy, dx, dy = origin[:, 0], origin[:, 1], direction[:, 0], direction[:, 1]
    a = dx * dx + dy * dy
    b = ox * dx + oy * dy
    c = ox * ox + oy * oy - 1
    discriminant = b * b - a * c
    root = discriminant.clamp_min(0).sqrt()
    inverse = 1 / a.clamp_min(_TINY)
    cap_near, cap_far = _slabs(origin[:, 2], direction[:, 2])
    near = torch.maximum((-b - root) * inverse, cap_near)
    far = torch.minimum((root - b) * inverse, cap_far)
    return near, (discriminant > 0) & (far > near)
