"""Colours warped by the true motion of surfaces."""

import math
from dataclasses import replace

import pytest
import torch

from fourreal_kernels.data import HELD_OUT_SEED
from fourreal_kernels.evaluation.correspondence import AXES, correspondence
from fourreal_kernels.evaluation.held_out import held_out_render
from fourreal_kernels.evaluation.reprojection import decibels, reprojection_error


@pytest.fixture(scope="module")
def render():
    return held_out_render(HELD_OUT_SEED, 2, 3, 24, 24)


@pytest.mark.parametrize("axis", AXES)
def test_flat_frames_differ_by_their_colours(render, axis):
    pairs = correspondence(render, axis)
    colour = torch.rand(2, 3, 3)
    frames = colour[..., None, None].expand(2, 3, 3, 24, 24)
    weight = pairs.visible.flatten(1).sum(1)
    error = (pairs.first(colour) - pairs.second(colour)).square().mean(1)
    expected = float((weight * error).sum() / weight.sum())
    assert reprojection_error(frames, pairs) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("axis", AXES)
def test_true_frames_agree_and_shifted_ones_do_not(render, axis):
    pairs = correspondence(render, axis)
    clean = reprojection_error(render.frames, pairs)
    assert decibels(clean) > 28
    unmoved = replace(pairs, position=correspondence(render, axis).position + 2.0)
    assert reprojection_error(render.frames, unmoved) > 5 * clean


def test_a_wrong_but_consistent_grid_has_a_small_error(render):
    pairs = correspondence(render, "view")
    assert reprojection_error(0.5 * render.frames, pairs) == pytest.approx(
        0.25 * reprojection_error(render.frames, pairs), rel=1e-3
    )


def test_without_visible_pixels_there_is_no_error(render):
    pairs = correspondence(render, "view")
    hidden = replace(pairs, visible=torch.zeros_like(pairs.visible))
    assert math.isnan(reprojection_error(render.frames, hidden))


def test_decibels():
    assert decibels(0.01) == pytest.approx(20.0) and decibels(0.0) > 100
