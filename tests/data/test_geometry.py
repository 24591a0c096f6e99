"""Correspondences: warping by them reproduces what is visible."""

import math
from dataclasses import replace

import pytest
import torch

from fourreal_kernels.data import flow_to_given, pixel_positions, render, sample_scene, surface_flow, warp
from fourreal_kernels.data.cameras import look_at
from fourreal_kernels.data.placement import axis_angle_matrix
from fourreal_kernels.data.tracing import SKY


def _evenly_lit(scene):
    """The scene without shading that depends on time: moving shadows are no motion of a surface."""
    return replace(scene, light=torch.tensor([0.0, 0.0, 1e6]), light_radius=torch.tensor(0.0))


def _psnr(first, second, mask):
    error = (first - second).square().mean(2)[mask].mean()
    return float(-10 * torch.log10(error))


@pytest.fixture(scope="module")
def grid():
    return render(_evenly_lit(sample_scene(3, views=3, times=4)), 64, 64, light_samples=0)


@pytest.fixture(scope="module")
def flow(grid):
    return flow_to_given(grid)


@pytest.mark.parametrize("source", ["freeze", "fixed"])
def test_warping_the_given_frames_reproduces_visible_pixels(grid, flow, source):
    given = grid.frames[:, :1] if source == "freeze" else grid.frames[:1]
    given = given.expand_as(grid.frames)
    displacement = getattr(flow, f"flow_from_{source}")
    visible = getattr(flow, f"visible_from_{source}").clone()
    visible[0], visible[:, 0] = False, False
    warped = warp(given, pixel_positions(64, 64) + displacement)
    assert visible[1:, 1:].float().mean() > 0.6
    after, before = _psnr(warped, grid.frames, visible), _psnr(given, grid.frames, visible)
    assert after > 27
    assert after > before + 5


def test_moving_objects_are_tracked(grid, flow):
    moving = (grid.instance < grid.object_position.shape[1]) & (grid.instance >= 0) & flow.visible_from_freeze
    moving[:, 0] = False
    assert flow.flow_from_freeze.norm(dim=2)[moving].mean() > 1
    warped = warp(grid.frames[:, :1].expand_as(grid.frames), pixel_positions(64, 64) + flow.flow_from_freeze)
    assert _psnr(warped, grid.frames, moving) > _psnr(grid.frames[:, :1], grid.frames, moving) + 4


def test_flow_is_the_identity_on_the_given_frames(grid, flow):
    assert flow.flow_from_freeze[:, 0].abs().max() < 1e-3
    assert flow.flow_from_fixed[0].abs().max() < 1e-3
    assert flow.visible_from_freeze[:, 0].float().mean() > 0.999
    assert flow.visible_from_fixed[0].float().mean() > 0.999


def test_a_static_scene_has_no_flow_over_time():
    scene = sample_scene(3, views=1, times=3)
    still = replace(
        scene,
        position=scene.position[:1].expand_as(scene.position),
        rotation=scene.rotation[:1].expand_as(scene.rotation),
    )
    flow = flow_to_given(render(still, 32, 32, supersample=1))
    assert flow.flow_from_freeze.abs().max() < 1e-3
    assert flow.visible_from_freeze.float().mean() > 0.999


def test_object_centre_follows_its_pose(grid):
    """The displacement of an object's pixels agrees with projecting its moved surface points directly."""
    view, time, index = 2, 3, 0
    y, x = (grid.instance[view, time] == index).nonzero().float().mean(0).long().tolist()
    if int(grid.instance[view, time, y, x]) != index:
        y, x = (grid.instance[view, time] == index).nonzero()[0].tolist()
    camera = grid.world_to_camera
    ray = torch.linalg.inv(grid.intrinsics) @ torch.tensor([x + 0.5, y + 0.5, 1.0])
    seen = torch.cat([ray * grid.depth[view, time, y, x], torch.ones(1)])
    world = (torch.linalg.inv(camera[view]) @ seen)[:3]
    local = grid.object_rotation[time, index].T @ (world - grid.object_position[time, index])
    moved = grid.object_rotation[1, index] @ local + grid.object_position[1, index]
    image = grid.intrinsics @ (camera[1] @ torch.cat([moved, torch.ones(1)]))[:3]
    position, _ = surface_flow(grid, torch.tensor(1), torch.tensor(1))
    torch.testing.assert_close(position[view, time, :, y, x], image[:2] / image[2], atol=1e-2, rtol=0)


def test_hidden_and_out_of_frame_points_are_not_visible(grid):
    """A point is not visible exactly where the source shows something nearer, or nothing of the frame."""
    position, visible = surface_flow(grid, torch.tensor(0), torch.tensor(0))
    x, y = position[2, 3]
    outside = (x < 0) | (x >= 64) | (y < 0) | (y >= 64)
    assert outside.any() and not visible[2, 3][outside].any()
    behind = (grid.instance[2, 3] == grid.object_position.shape[1]) & ~outside
    seen = grid.instance[0, 0][y.clamp(0, 63).long(), x.clamp(0, 63).long()]
    hidden = behind & (seen < grid.object_position.shape[1]) & (seen >= 0)
    assert hidden.any() and not visible[2, 3][hidden].any()


def test_the_far_side_of_an_object_is_not_visible():
    """After half a turn a ball shows only points that were on its far side."""
    scene = sample_scene(3, views=1, times=2)
    half_turn = axis_angle_matrix(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, math.pi]))
    scene = replace(
        scene,
        kind=torch.zeros_like(scene.kind),
        half_size=torch.full_like(scene.half_size, 0.5),
        position=scene.position[:1].expand(2, -1, -1),
        rotation=half_turn[:, None].expand_as(scene.rotation),
    )
    grid = render(scene, 64, 64, supersample=1, light_samples=0)
    visible = flow_to_given(grid).visible_from_freeze[0, 1]
    on_ball = grid.instance[0, 1] == 0
    # The camera looks down on the ball, so a cap round the pole that it turns about stays in sight.
    pole = grid.world_to_camera[0] @ torch.cat(
        [scene.position[0, 0] + torch.tensor([0, 0, 0.5]), torch.ones(1)]
    )
    pole_y = float((grid.intrinsics @ pole[:3])[1] / pole[2])
    below_cap = on_ball & (pixel_positions(64, 64)[1] > pole_y + 6)
    assert int(below_cap.sum()) > 50
    assert visible[below_cap].float().mean() < 0.02


def test_the_sky_turns_with_the_camera_but_does_not_shift():
    scene = sample_scene(3, views=2, times=1)
    level = look_at(torch.tensor([5.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0]))
    moved = level.clone()
    moved[0, 3] += 0.5
    grid = render(replace(scene, world_to_camera=torch.stack([level, moved])), 32, 32, supersample=1)
    sky = grid.instance[1, 0] == SKY
    assert int(sky.sum()) > 200
    flow = flow_to_given(grid)
    assert flow.flow_from_fixed[1, 0][:, sky].abs().max() < 1e-3
    assert flow.flow_from_fixed[1, 0][:, ~sky].abs().max() > 0.5
    assert flow.visible_from_fixed[1, 0][sky].float().mean() > 0.8


def test_shapes_and_types(flow):
    assert flow.flow_from_freeze.shape == flow.flow_from_fixed.shape == (3, 4, 2, 64, 64)
    assert flow.visible_from_freeze.shape == flow.visible_from_fixed.shape == (3, 4, 64, 64)
    assert flow.flow_from_freeze.dtype == torch.float32 and flow.visible_from_fixed.dtype == torch.bool
    assert all(torch.isfinite(value).all() for value in (flow.flow_from_freeze, flow.flow_from_fixed))
