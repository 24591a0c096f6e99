"""Procedural 4D scenes: a seed decides objects, textures, trajectories and the camera arc."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .cameras import orbit
from .placement import Trajectories, place_objects
from .primitives import BOX, CYLINDER, ELLIPSOID
from .scene_family import SceneFamily, scene_family
from .textures import TEXTURE_NAMES
from .threads import one_thread

HELD_OUT_SEED = 900_000

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.13, 0.12),
    "orange": (0.95, 0.50, 0.10),
    "yellow": (0.95, 0.85, 0.20),
    "green": (0.15, 0.62, 0.22),
    "cyan": (0.15, 0.75, 0.80),
    "blue": (0.14, 0.25, 0.82),
    "purple": (0.52, 0.18, 0.70),
    "pink": (0.95, 0.50, 0.72),
    "white": (0.94, 0.94, 0.92),
    "black": (0.09, 0.09, 0.11),
}


@dataclass(frozen=True)
class Scene:
    """One scene, sampled at V views and T times. n objects; lengths in world units, angles in radians, z up.

    Attributes:
        seed, family: what the scene was drawn from. kind (n,), texture (n,): int64 codes of `primitives` and
        `textures`. half_size (n, 3): semi-axes, half edges, or (radius, radius, half height). colour (n, 2):
        int64 indices into `COLOURS`. `colour_rgb` (n, 2, 3): their values with a small jitter. feature_size
        (n,), texture_offset (n, 3): scale of the texture and its shift in features. trajectories: the
        continuous motion. `position` (T, n, 3), `rotation` (T, n, 3, 3): it sampled at T times. orbit_span
        (): signed angle of the camera arc. `world_to_camera` (V, 4, 4): OpenCV convention. field_of_view ():
        degrees over the shorter image side. ground_rgb (2, 3), ground_feature_size (), sky_rgb (2, 3):
        horizon and zenith colours of the sky. light (3,): centre of the disc light. `light_radius` ().
    """

    seed: int
    family: str
    kind: Tensor
    texture: Tensor
    half_size: Tensor
    colour: Tensor
    colour_rgb: Tensor
    feature_size: Tensor
    texture_offset: Tensor
    trajectories: Trajectories
    position: Tensor
    rotation: Tensor
    orbit_span: Tensor
    world_to_camera: Tensor
    field_of_view: Tensor
    ground_rgb: Tensor
    ground_feature_size: Tensor
    sky_rgb: Tensor
    light: Tensor
    light_radius: Tensor

    @property
    def views(self) -> int:
        return self.world_to_camera.shape[0]

    @property
    def times(self) -> int:
        return self.position.shape[0]

    @property
    def objects(self) -> int:
        return self.kind.shape[0]

    def to(self, device: torch.device | str) -> Scene:
        """The same scene with its tensors on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if hasattr(value, "to")}
        return replace(self, **moved)


def is_held_out(seed: int) -> bool:
    """Whether a seed is kept for evaluation: nothing is trained or tuned on seeds >= `HELD_OUT_SEED`."""
    return seed >= HELD_OUT_SEED


def sample_scene(seed: int, views: int = 8, times: int = 8, family: str | SceneFamily = "easy") -> Scene:
    """The scene of a seed, sampled at `views` points of its camera arc and `times` points of its clip.

    Deterministic in (seed, family). `views` and `times` only set how densely the arc and the clip are
    sampled, both ends included; a single view or time is the first. Raises ValueError for a negative seed or
    a count below 1.
    """
    for name, value, least in (("seed", seed, 0), ("views", views, 1), ("times", times, 1)):
        if value < least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
    family = scene_family(family) if isinstance(family, str) else family
    with one_thread():
        return _sample_scene(seed, views, times, family)


def _sample_scene(seed: int, views: int, times: int, family: SceneFamily) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    kind, half_size, texture, colour, colour_rgb, feature_size, offset = _sample_objects(family, generator)
    arc = _CameraArc.sample(family, generator)
    ground, ground_feature, sky, light = _sample_surroundings(family, generator)
    trajectories = place_objects(family, kind, half_size, arc.at(torch.linspace(0, 1, 9)), generator)
    position, rotation = trajectories.at(torch.linspace(0, 1, times))
    return Scene(
        seed=seed,
        family=family.name,
        kind=kind,
        texture=texture,
        half_size=half_size,
        colour=colour,
        colour_rgb=colour_rgb,
        feature_size=feature_size,
        texture_offset=offset,
        trajectories=trajectories,
        position=position,
        rotation=rotation,
        orbit_span=arc.span,
        world_to_camera=arc.at(torch.linspace(0, 1, views)),
        field_of_view=torch.tensor(family.field_of_view_degrees),
        ground_rgb=ground,
        ground_feature_size=ground_feature,
        sky_rgb=sky,
        light=light,
        light_radius=torch.tensor(0.8),
    )


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _sample_objects(family: SceneFamily, generator: torch.Generator) -> tuple[Tensor, ...]:
    low, high = family.object_count
    count = int(torch.randint(low, high + 1, (1,), generator=generator))
    kind = torch.randint(0, 3, (count,), generator=generator)
    half_size = _sample_half_size(family, kind, generator)
    texture = torch.randint(0, len(TEXTURE_NAMES), (count,), generator=generator)
    colour = _sample_colours(count, generator)
    values = torch.tensor(list(COLOURS.values()))[colour]
    colour_rgb = (values + _uniform(generator, -0.04, 0.04, count, 2, 3)).clamp(0.03, 1.0)
    feature_size = _uniform(generator, *family.feature_size, count)
    offset = _uniform(generator, 0.0, 16.0, count, 3)
    return kind, half_size, texture, colour, colour_rgb, feature_size, offset


def _sample_half_size(family: SceneFamily, kind: Tensor, generator: torch.Generator) -> Tensor:
    half_size = _uniform(generator, *family.half_size, len(kind), 3)
    is_ball = (kind == ELLIPSOID)[:, None]
    mean = half_size.mean(-1, keepdim=True)
    half_size = torch.where(is_ball, 0.6 * mean + 0.4 * half_size, half_size)
    # Boxes and cylinders fill more of their bounds than ellipsoids: equal areas on screen need smaller
    # extents.
    half_size = half_size * torch.where(kind == BOX, 0.78, torch.where(kind == CYLINDER, 0.88, 1.0))[:, None]
    half_size[:, 1] = torch.where(kind == CYLINDER, half_size[:, 0], half_size[:, 1])
    return half_size


def _sample_colours(count: int, generator: torch.Generator) -> Tensor:
    """Indices (count, 2): first colours differ between objects, the two colours of an object contrast."""
    first = torch.randperm(len(COLOURS), generator=generator)[:count]
    values = torch.tensor(list(COLOURS.values()))
    contrast = (values[first][:, None] - values[None]).norm(dim=-1)
    score = (contrast > 0.55) + torch.rand(count, len(COLOURS), generator=generator)
    return torch.stack([first, score.argmax(-1)], dim=-1)


@dataclass(frozen=True)
class _CameraArc:
    start: Tensor
    span: Tensor
    elevation: Tensor
    distance: Tensor
    target: Tensor

    @classmethod
    def sample(cls, family: SceneFamily, generator: torch.Generator) -> _CameraArc:
        start = torch.deg2rad(_uniform(generator, 0.0, 360.0))
        span = torch.deg2rad(_uniform(generator, *family.orbit_degrees))
        span = torch.where(torch.rand((), generator=generator) < 0.5, span, -span)
        elevation = torch.deg2rad(_uniform(generator, *family.elevation_degrees))
        distance = _uniform(generator, *family.camera_distance)
        return cls(start, span, elevation, distance, torch.tensor([0.0, 0.0, 0.35]))

    def at(self, fraction: Tensor) -> Tensor:
        return orbit(self.start + self.span * fraction, self.elevation, self.distance, self.target)


def _sample_surroundings(
    family: SceneFamily, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    base = _uniform(generator, 0.45, 0.75) + _uniform(generator, -0.12, 0.12, 3)
    contrast = _uniform(generator, 0.10, 0.18) * torch.where(
        torch.rand((), generator=generator) < 0.5, 1.0, -1.0
    )
    ground = torch.stack([base, base + contrast + _uniform(generator, -0.05, 0.05, 3)]).clamp(0.15, 0.95)
    feature = _uniform(generator, *family.ground_feature_size)
    sky = torch.stack([_uniform(generator, 0.70, 0.95, 3), _uniform(generator, 0.35, 0.80, 3)])
    angle = _uniform(generator, 0.0, 2 * torch.pi)
    light = torch.stack([3 * angle.cos(), 3 * angle.sin(), torch.tensor(6.0)])
    return ground, feature, sky, light
