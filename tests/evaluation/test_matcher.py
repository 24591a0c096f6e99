"""The feature matcher on images whose motion is known."""

import pytest
import torch
import torch.nn.functional as F

from fourreal_kernels.data.geometry import pixel_positions, warp
from fourreal_kernels.evaluation.matcher import match_frames


def _texture(seed=0, height=40, width=48):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    return F.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1)[0]


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0), (1.5, 0.25), (-2.3, 4.6)])
def test_a_shift_is_found(shift):
    first = _texture()
    position = pixel_positions(40, 48) - torch.tensor(shift)[:, None, None]
    second = warp(first[None], position[None], "bicubic")[0]
    matches = match_frames(first, second)
    assert len(matches.first) >= 15
    error = (matches.second - matches.first - torch.tensor(shift)).norm(dim=1)
    assert error.median() < 0.2 and (error < 0.5).float().mean() > 0.9


def test_points_are_pixel_centres_inside_the_frame():
    matches = match_frames(_texture(), _texture())
    assert matches.first.shape[1] == 2 and torch.equal(matches.first % 1, torch.full_like(matches.first, 0.5))
    assert matches.first[:, 0].max() < 48 and matches.first[:, 1].max() < 40 and matches.first.min() > 0
    assert matches.first[:, 0].max() > 40


def test_gains_of_colours_change_nothing():
    first, gain = _texture(), torch.tensor([0.5, 0.8, 0.6])[:, None, None]
    plain, dimmed = match_frames(first, first), match_frames(first, 0.7 * first)
    assert len(plain.first) == len(dimmed.first)
    assert (match_frames(first, gain * first).second - match_frames(first, gain * first).first).norm(dim=1).max() < 0.5


def test_unrelated_frames_hardly_match():
    same, other = match_frames(_texture(), _texture()), match_frames(_texture(), _texture(1))
    assert len(other.first) < 0.15 * len(same.first)


def test_displacements_beyond_the_radius_are_not_found():
    first = _texture()
    second = first.roll(8, -1)
    far, near = match_frames(first, second), match_frames(first, second, radius=3)
    assert ((far.second - far.first)[:, 0] - 8).abs().median() < 0.2
    assert len(near.first) < 0.2 * len(far.first) and not ((near.second - near.first).abs() > 3.5).any()


def test_flat_frames_have_no_matches():
    flat = torch.full((3, 20, 20), 0.5)
    matches = match_frames(flat, flat)
    assert matches.first.shape == matches.second.shape == (0, 2)


def test_frames_smaller_than_a_window_are_refused():
    with pytest.raises(ValueError, match="^first: got 8 x 20 pixels, expected at least 9 x 9"):
        match_frames(torch.rand(3, 8, 20), torch.rand(3, 8, 20))
