"""Epipolar geometry against projected points, and match errors against known motion."""

from dataclasses import replace

import pytest
import torch

from fourreal_kernels.data import HELD_OUT_SEED
from fourreal_kernels.data.cameras import intrinsics, look_at
from fourreal_kernels.evaluation.correspondence import correspondence
from fourreal_kernels.evaluation.epipolar import (
    epipolar_distance,
    epipolar_errors,
    fundamental_matrix,
    match_pairs,
    track_errors,
)
from fourreal_kernels.evaluation.held_out import held_out_render
from fourreal_kernels.evaluation.matcher import Matches


def _two_cameras():
    matrix = intrinsics(48, 64, 45.0)
    target = torch.zeros(3)
    return matrix, look_at(torch.tensor([4.0, 0.5, 2.0]), target), look_at(torch.tensor([3.0, 2.5, 1.5]), target)


def _project(matrix, camera, points):
    seen = points @ camera[:3, :3].T + camera[:3, 3]
    projected = seen @ matrix.T
    return projected[:, :2] / projected[:, 2:]


def test_projections_of_a_point_lie_on_each_others_lines():
    matrix, first, second = _two_cameras()
    points = torch.rand(50, 3) - 0.5
    matches = Matches(_project(matrix, first, points), _project(matrix, second, points))
    fundamental = fundamental_matrix(matrix, first, second)
    assert (matches.first - matches.second).norm(dim=1).median() > 1
    assert epipolar_distance(matches, fundamental).max() < 1e-3


def test_distance_is_that_of_points_to_lines():
    matrix, first, second = _two_cameras()
    points = torch.rand(20, 3) - 0.5
    matches = Matches(_project(matrix, first, points), _project(matrix, second, points) + torch.randn(20, 2))
    fundamental = fundamental_matrix(matrix, first, second)
    for index, found in enumerate(epipolar_distance(matches, fundamental).tolist()):
        one = torch.cat([matches.first[index], torch.ones(1)]).double()
        two = torch.cat([matches.second[index], torch.ones(1)]).double()
        a, b = fundamental @ one, fundamental.T @ two
        ahead = abs(float(two @ a)) / float((a[0] ** 2 + a[1] ** 2).sqrt())
        back = abs(float(one @ b)) / float((b[0] ** 2 + b[1] ** 2).sqrt())
        assert found == pytest.approx((ahead + back) / 2, rel=1e-6)


@pytest.fixture(scope="module")
def render():
    return held_out_render(HELD_OUT_SEED + 1, 2, 3, 40, 40)


def test_true_views_have_small_errors_and_shifted_ones_large(render):
    pairs = correspondence(render, "view")
    clean = epipolar_errors(match_pairs(render.frames, pairs), render, pairs)
    assert len(clean) > 10 and clean.median() < 0.5
    moved = render.frames.clone()
    moved[1] = moved[1].roll(3, -2)
    assert epipolar_errors(match_pairs(moved, pairs), render, pairs).median() > 3 * clean.median() + 0.5


def test_cameras_that_stand_still_have_no_lines(render):
    pairs = correspondence(render, "time")
    with pytest.raises(ValueError, match="^pairs: got pairs along time, expected view"):
        epipolar_errors([], render, pairs)


def test_match_errors_are_distances_to_the_true_position_of_visible_moving_points(render):
    pairs = correspondence(render, "time")
    points = torch.tensor([[10.5, 20.5], [11.5, 20.5], [12.5, 20.5], [13.5, 20.5]])
    position = pairs.position.clone()
    visible = torch.zeros_like(pairs.visible)
    visible[0, 20, 10:13] = True
    position[0, :, 20, 10] = torch.tensor([13.5, 20.5])
    position[0, :, 20, 11] = torch.tensor([11.9, 20.5])  # moves by 0.4 px
    position[0, :, 20, 12] = torch.tensor([12.5, 22.5])
    position[0, :, 20, 13] = torch.tensor([20.0, 20.5])  # hidden
    made = replace(pairs, position=position, visible=visible)
    matches = [Matches(points, points)] + [Matches(torch.zeros(0, 2), torch.zeros(0, 2))] * (len(pairs.view) - 1)
    assert track_errors(matches, made).tolist() == pytest.approx([3.0, 2.0])


def test_without_matches_there_are_no_errors(render):
    pairs = correspondence(render, "view")
    none = [Matches(torch.zeros(0, 2), torch.zeros(0, 2))] * len(pairs.view)
    assert epipolar_errors(none, render, pairs).shape == track_errors(none, pairs).shape == (0,)
