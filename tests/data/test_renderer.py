"""The renderer against closed forms: silhouettes, depths, shading, shapes."""

import math
from dataclasses import replace

import pytest
import torch

from fourreal_kernels.data import render, sample_scene
from fourreal_kernels.data.cameras import look_at
from fourreal_kernels.data.primitives import BOX, CYLINDER, ELLIPSOID, entry_distance, unit_normal

DISTANCE = 5.0


def _single_object_scene(kind, half_size, height=2.0):
    """One unturned object at (0, 0, height) seen horizontally from x = DISTANCE."""
    scene = sample_scene(0, views=1, times=1)
    eye = torch.tensor([DISTANCE, 0.0, height])
    return replace(
        scene,
        kind=torch.tensor([kind]),
        texture=torch.tensor([0]),
        half_size=torch.tensor([half_size]),
        colour=scene.colour[:1],
        colour_rgb=scene.colour_rgb[:1],
        feature_size=scene.feature_size[:1],
        texture_offset=scene.texture_offset[:1],
        position=torch.tensor([[[0.0, 0.0, height]]]),
        rotation=torch.eye(3)[None, None],
        world_to_camera=look_at(eye, torch.tensor([0.0, 0.0, height]))[None],
    )


def test_sphere_silhouette_and_depth_match_the_closed_form():
    radius, size = 0.7, 129
    grid = render(_single_object_scene(ELLIPSOID, [radius] * 3), size, size, supersample=1)
    focal = float(grid.intrinsics[0, 0])
    # The tangent cone of a sphere has the half angle asin(radius / distance).
    expected = focal * math.tan(math.asin(radius / DISTANCE))
    silhouette = grid.instance[0, 0] == 0
    measured = math.sqrt(float(silhouette.sum()) / math.pi)
    assert measured == pytest.approx(expected, rel=0.01)
    assert float(grid.depth[0, 0, size // 2, size // 2]) == pytest.approx(DISTANCE - radius, abs=1e-4)

    offset = 8
    slope = offset / focal
    a, b, c = 1 + slope**2, DISTANCE, DISTANCE**2 - radius**2
    depth = (b - math.sqrt(b * b - a * c)) / a
    assert float(grid.depth[0, 0, size // 2, size // 2 + offset]) == pytest.approx(depth, abs=1e-4)


@pytest.mark.parametrize("kind", [BOX, CYLINDER])
def test_flat_and_round_fronts(kind):
    size = 65
    grid = render(_single_object_scene(kind, [0.5, 0.5, 0.4]), size, size, supersample=1)
    focal, centre = float(grid.intrinsics[0, 0]), size // 2
    depth = grid.depth[0, 0]
    assert float(depth[centre, centre]) == pytest.approx(DISTANCE - 0.5, abs=1e-4)
    beside = float(depth[centre, centre + 3])
    assert (
        beside == pytest.approx(DISTANCE - 0.5, abs=1e-4) if kind == BOX else beside > DISTANCE - 0.5 + 1e-3
    )
    rows = (grid.instance[0, 0, :, centre] == 0).sum()
    assert int(rows) == pytest.approx(2 * 0.4 * focal / (DISTANCE - 0.5), abs=1.01)


def test_ground_depth_and_horizon():
    scene = _single_object_scene(ELLIPSOID, [0.2] * 3)
    grid = render(scene, 64, 64, supersample=1)
    focal = float(grid.intrinsics[1, 1])
    y = 60
    expected = 2.0 / ((y + 0.5 - 32) / focal)
    assert float(grid.depth[0, 0, y, 2]) == pytest.approx(expected, rel=1e-5)
    assert (grid.instance[0, 0, y] == 1).all()
    assert (grid.instance[0, 0, :20, :20] == -1).all()
    assert (grid.depth[0, 0, :20, :20] == 0).all()


def test_a_ball_shadows_the_ground_below_the_light():
    scene = _single_object_scene(ELLIPSOID, [0.4] * 3, height=0.8)
    eye = torch.tensor([DISTANCE, 0.0, 3.0])
    scene = replace(
        scene,
        world_to_camera=look_at(eye, torch.zeros(3))[None],
        light=torch.tensor([0.0, 0.0, 6.0]),
        ground_rgb=torch.full((2, 3), 0.5),
    )
    shadowed = render(scene, 65, 65, supersample=1, light_samples=4).frames[0, 0]
    lit = render(scene, 65, 65, supersample=1, light_samples=0).frames[0, 0]
    # The image centre looks at the ground point under the ball, unless the ball hides it.
    camera = scene.world_to_camera[0] @ torch.tensor([-0.25, 0.0, 0.0, 1.0])
    focal = 32.5 / math.tan(math.radians(22.5))
    y = int(32.5 + focal * float(camera[1] / camera[2]))
    assert float(shadowed[:, y, 32].mean()) < 0.85 * float(lit[:, y, 32].mean())
    torch.testing.assert_close(shadowed[:, 60, 5], lit[:, 60, 5])


def test_a_turned_ball_keeps_its_shading():
    """Turning a sphere moves its texture but neither its light nor its dark side."""
    still = _single_object_scene(ELLIPSOID, [0.8] * 3)
    still = replace(still, colour_rgb=torch.full((1, 2, 3), 0.6), light=torch.tensor([2.0, 5.0, 4.0]))
    quarter_turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = replace(still, rotation=quarter_turn[None, None])
    first, second = render(still, 32, 32, light_samples=0), render(turned, 32, 32, light_samples=0)
    ball = first.instance[0, 0] == 0
    lit = first.frames[0, 0].mean(0)[ball]
    assert lit.max() - lit.min() > 0.25
    assert (first.frames - second.frames)[0, 0][:, ball].abs().max() < 0.13


@pytest.mark.parametrize("kind", [ELLIPSOID, BOX, CYLINDER])
def test_entry_points_lie_on_the_surface_facing_the_ray(kind):
    generator = torch.Generator().manual_seed(0)
    origin = 4 * torch.nn.functional.normalize(torch.randn(1, 3, 2000, generator=generator), dim=1)
    direction = torch.rand(1, 3, 2000, generator=generator) - 0.5 - origin
    distance = entry_distance(kind, origin, direction)[0]
    hit = distance < 10
    assert int(hit.sum()) > 500
    point = (origin + distance * direction)[0][:, hit]
    size = point.abs()
    radius = {
        ELLIPSOID: point.norm(dim=0),
        BOX: size.amax(0),
        CYLINDER: torch.maximum(point[:2].norm(dim=0), size[2]),
    }[kind]
    torch.testing.assert_close(radius, torch.ones_like(radius), atol=1e-4, rtol=0)
    assert ((unit_normal(kind, point) * direction[0][:, hit]).sum(0) < 1e-3).all()
    assert entry_distance(kind, torch.zeros(1, 3, 1), direction).min() > 1e8


def test_shapes_types_and_range():
    scene = sample_scene(1, views=2, times=3)
    grid = render(scene, 16, 24, supersample=2)
    count = scene.objects
    assert grid.frames.shape == (2, 3, 3, 16, 24) and grid.frames.dtype == torch.float32
    assert grid.depth.shape == grid.instance.shape == (2, 3, 16, 24)
    assert grid.depth.dtype == torch.float32 and grid.instance.dtype == torch.int64
    assert grid.intrinsics.shape == (3, 3) and grid.world_to_camera.shape == (2, 4, 4)
    assert grid.object_rotation.shape == (3, count, 3, 3) and grid.object_position.shape == (3, count, 3)
    assert 0 <= float(grid.frames.min()) and float(grid.frames.max()) <= 1
    assert set(grid.instance.unique().tolist()) <= set(range(-1, count + 1))
    assert set(range(count)) <= set(grid.instance.unique().tolist())


@pytest.mark.parametrize(("views", "times"), [(1, 3), (3, 1), (1, 1)])
def test_single_view_and_single_time(views, times):
    grid = render(sample_scene(4, views=views, times=times), 16, 16, supersample=1)
    assert grid.frames.shape == (views, times, 3, 16, 16)


def test_wider_images_extend_the_square_one():
    scene = sample_scene(1, views=1, times=1)
    square, wide = render(scene, 32, 32), render(scene, 32, 64)
    torch.testing.assert_close(wide.frames[..., 16:48], square.frames, atol=1e-4, rtol=0)
    torch.testing.assert_close(wide.depth[..., 16:48], square.depth, atol=1e-4, rtol=1e-4)


def test_chunks_do_not_change_the_result():
    scene = sample_scene(1, views=2, times=3)
    one, all_at_once = render(scene, 24, 24), render(scene, 24, 24, chunk=4)
    # Rounding may flip a ray at a texture edge; nothing else may change.
    assert ((one.frames - all_at_once.frames).abs() > 1e-4).float().mean() < 1e-3
    assert torch.equal(one.instance, all_at_once.instance)


def test_objects_and_shadows_vary_over_time_but_not_the_static_background():
    scene = sample_scene(0, views=1, times=2)
    grid = render(scene, 32, 32)
    difference = (grid.frames[0, 0] - grid.frames[0, 1]).abs().amax(0)
    assert (difference > 0.1).float().mean() > 0.02
    assert (difference < 1e-5).float().mean() > 0.3


@pytest.mark.parametrize("name", ["height", "width", "supersample", "chunk", "light_samples"])
def test_bad_arguments_are_named(name):
    with pytest.raises(ValueError, match=f"^{name}: got -1"):
        render(sample_scene(0, 1, 1), **{name: -1})
