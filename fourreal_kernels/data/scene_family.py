"""Families of scenes: the ranges from which a scene's parameters are drawn."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class SceneFamily:
    """Sampling ranges of procedural scenes. Lengths are world units; pixels are those of a 64 x 64 image."""

    name: str
    object_count: tuple[int, int]
    half_size: Range
    feature_size: Range
    ground_feature_size: Range
    travel: Range
    moving_probability: float
    hop_probability: float
    hop_height: Range
    hops: Range
    spin_degrees: Range
    spin_probability: float
    spin_axis_tilt: float
    placement_radius: float
    gap: float
    orbit_degrees: Range
    elevation_degrees: Range
    camera_distance: Range
    field_of_view_degrees: float
    frame_margin: float
    motion_pixels: Range

    @property
    def upright(self) -> bool:
        """Whether objects turn about the vertical only."""
        return self.spin_axis_tilt == 0.0


EASY = SceneFamily(
    name="easy",
    object_count=(2, 3),
    half_size=(0.44, 0.64),
    feature_size=(0.28, 0.42),
    ground_feature_size=(1.0, 1.6),
    travel=(0.40, 0.85),
    moving_probability=0.75,
    hop_probability=0.35,
    hop_height=(0.20, 0.45),
    hops=(1.0, 1.5),
    spin_degrees=(20.0, 60.0),
    spin_probability=0.7,
    spin_axis_tilt=0.0,
    placement_radius=1.25,
    gap=0.08,
    orbit_degrees=(8.0, 18.0),
    elevation_degrees=(18.0, 34.0),
    camera_distance=(4.2, 4.8),
    field_of_view_degrees=45.0,
    frame_margin=0.14,
    motion_pixels=(5.0, 13.0),
)

HARD = SceneFamily(
    name="hard",
    object_count=(4, 4),
    half_size=(0.28, 0.50),
    feature_size=(0.25, 0.50),
    ground_feature_size=(0.6, 1.25),
    travel=(0.5, 1.4),
    moving_probability=0.85,
    hop_probability=0.5,
    hop_height=(0.1, 0.8),
    hops=(0.6, 1.4),
    spin_degrees=(30.0, 143.0),
    spin_probability=1.0,
    spin_axis_tilt=0.25,
    placement_radius=1.5,
    gap=0.04,
    orbit_degrees=(20.0, 60.0),
    elevation_degrees=(18.0, 40.0),
    camera_distance=(4.6, 5.8),
    field_of_view_degrees=45.0,
    frame_margin=0.06,
    motion_pixels=(8.0, 24.0),
)

_FAMILIES = {family.name: family for family in (EASY, HARD)}


def scene_family(name: str) -> SceneFamily:
    """The family of that name: `"easy"` or `"hard"`. Raises ValueError for any other."""
    if name not in _FAMILIES:
        raise ValueError(f"family: got {name!r}, expected one of {sorted(_FAMILIES)}")
    return _FAMILIES[name]
