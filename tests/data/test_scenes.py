"""Scenes: determinism, sampling density, placement guarantees and captions."""

import math
from dataclasses import fields

import pytest
import torch

from fourreal_kernels.data import HELD_OUT_SEED, caption, is_held_out, sample_scene, scene_family
from fourreal_kernels.data.primitives import bounding_radius, footprint_radius
from fourreal_kernels.data.scenes import COLOURS


def _tensors(scene):
    values = {field.name: getattr(scene, field.name) for field in fields(scene)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def _normalised_image_positions(scene):
    """Object centres (V, T, n, 2) in every frame, -1 and 1 at the borders of a square image."""
    homogeneous = torch.cat([scene.position, torch.ones_like(scene.position[..., :1])], dim=-1)
    camera = torch.einsum("vij,tnj->vtni", scene.world_to_camera, homogeneous)
    assert (camera[..., 2] > 0).all()
    half_angle = math.radians(float(scene.field_of_view)) / 2
    return camera[..., :2] / camera[..., 2:3] / math.tan(half_angle)


@pytest.mark.parametrize("family", ["easy", "hard"])
def test_a_seed_decides_the_scene(family):
    first, again = _tensors(sample_scene(5, family=family)), _tensors(sample_scene(5, family=family))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = sample_scene(6, family=family)
    assert not torch.equal(first["world_to_camera"], other.world_to_camera)


def test_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    position = sample_scene(3).position
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(sample_scene(3).position, position)


def test_views_and_times_only_set_the_sampling_density():
    dense, sparse = sample_scene(9, views=9, times=13), sample_scene(9, views=5, times=4)
    torch.testing.assert_close(dense.world_to_camera[::2], sparse.world_to_camera)
    torch.testing.assert_close(dense.position[::4], sparse.position)
    torch.testing.assert_close(dense.rotation[::4], sparse.rotation)
    sampled = {"world_to_camera", "position", "rotation"}
    one, other = _tensors(dense), _tensors(sparse)
    assert all(torch.equal(one[name], other[name]) for name in one.keys() - sampled)


def test_a_single_frame_is_the_first_of_the_grid():
    grid, frame = sample_scene(9), sample_scene(9, views=1, times=1)
    torch.testing.assert_close(frame.world_to_camera, grid.world_to_camera[:1])
    torch.testing.assert_close(frame.position, grid.position[:1])


def test_held_out_seeds():
    assert HELD_OUT_SEED == 900_000
    assert not is_held_out(899_999)
    assert is_held_out(900_000)


@pytest.mark.parametrize("family", ["easy", "hard"])
def test_objects_stay_apart_in_frame_and_move(family):
    settings = scene_family(family)
    for seed in range(50):
        scene = sample_scene(seed, views=8, times=32, family=family)
        radius = (footprint_radius if settings.upright else bounding_radius)(scene.kind, scene.half_size)
        ground = scene.position[..., :2]
        distance = (ground[:, :, None] - ground[:, None]).norm(dim=-1)
        touching = distance < radius[:, None] + radius[None]
        assert not (touching & ~torch.eye(scene.objects, dtype=torch.bool)).any(), seed

        image = _normalised_image_positions(scene)
        assert image.abs().max() < 1 - settings.frame_margin, seed
        travelled = 32 * (image.amax(1) - image.amin(1)).norm(dim=-1)
        assert travelled.amin(0).max() > 0.9 * settings.motion_pixels[0], seed


@pytest.mark.parametrize("family", ["easy", "hard"])
def test_no_object_sinks_into_the_ground(family):
    for seed in range(10):
        scene = sample_scene(seed, family=family)
        signs = torch.tensor([-1.0, 1.0])
        corners = torch.cartesian_prod(signs, signs, signs)
        for index in (scene.kind == 1).nonzero()[:, 0].tolist():
            lowest = (scene.rotation[:, index] @ (corners * scene.half_size[index]).T)[:, 2].amin(-1)
            assert (scene.position[:, index, 2] + lowest > -1e-5).all()


def test_orbit_and_rotations_are_rigid():
    scene = sample_scene(2, views=3)
    for rotation in (scene.world_to_camera[:, :3, :3], scene.rotation):
        identity = torch.eye(3).expand_as(rotation)
        torch.testing.assert_close(rotation @ rotation.mT, identity, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(rotation.shape[:-2]))


def test_caption_names_every_object_and_the_orbit():
    names = list(COLOURS)
    for seed in range(10):
        scene = sample_scene(seed)
        parts = caption(scene).split("; ")
        assert len(parts) == scene.objects + 1
        for index, part in enumerate(parts[:-1]):
            first, second = scene.colour[index].tolist()
            assert f" {names[first]} and {names[second]} " in part
            assert ("box" in part) == (int(scene.kind[index]) == 1)
            moves = float(scene.trajectories.velocity[index].norm()) > 0
            assert moves == any(word in part for word in ("left", "right", "towards", "away"))
        assert f"orbits {abs(math.degrees(float(scene.orbit_span))):.0f} degrees" in parts[-1]


def test_caption_direction_is_that_of_the_first_view():
    checked = 0
    for seed in range(30):
        scene = sample_scene(seed)
        image = _normalised_image_positions(scene)[0]
        for index, part in enumerate(caption(scene).split("; ")[:-1]):
            side = {"left": -1, "right": 1}.get(part.rsplit(" ", 1)[-1])
            if side is not None:
                checked += 1
                assert side * float(image[-1, index, 0] - image[0, index, 0]) > 0
    assert checked > 10


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 0, "views": 0}, "views"),
        ({"seed": 0, "times": 0}, "times"),
        ({"seed": 0, "family": "medium"}, "family"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=f"^{named}: got"):
        sample_scene(**arguments)
