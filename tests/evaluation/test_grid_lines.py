"""Clips of a grid whose frames are numbered."""

import pytest
import torch

from fourreal_kernels.evaluation.clip_statistics import STATISTICS, clip_statistics
from fourreal_kernels.evaluation.grid_lines import LINES


def _frames(views, times):
    """Frame (v, t) holds 10 v + t."""
    return 10 * torch.arange(views)[:, None] + torch.arange(times)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("time lines", [[0, 1, 2], [10, 11, 12]]),
        ("view lines", [[0, 10], [1, 11], [2, 12]]),
        ("diagonals", [[0, 1, 12], [2, 1, 10]]),
        ("whole grid", [[0, 1, 2, 12, 11, 10]]),
    ],
)
def test_clips_of_two_views_and_three_timesteps(name, expected):
    clips = [clip.tolist() for clip in LINES[name](_frames(2, 3))]
    if name == "diagonals":  # the middle of two views is rounded to either
        assert [clip[::2] for clip in clips] == [clip[::2] for clip in expected]
        assert all(clip[1] in (1, 11) for clip in clips)
    else:
        assert clips == expected


def test_diagonals_of_a_square_grid():
    assert [clip.tolist() for clip in LINES["diagonals"](_frames(3, 3))] == [[0, 11, 22], [2, 11, 20]]


def test_statistics_of_a_still_and_of_a_changing_clip():
    still = torch.rand(3, 6, 7).expand(5, 3, 6, 7)
    values = dict(zip(STATISTICS, clip_statistics(still).tolist(), strict=True))
    assert values["mean green"] == pytest.approx(float(still[0, 1].mean()), abs=1e-5)
    assert values["deviation blue"] == pytest.approx(float(still[:, 2].std()), abs=1e-5)
    for name in ("log change", "log second change", "log flicker of the mean colour", "log change from end to end"):
        assert values[name] == pytest.approx(-6.9078, abs=1e-3), name
    assert values["changed pixels"] == 0

    steps = torch.tensor([0.0, 0.2, 0.25, 0.65])
    clip = steps[:, None, None, None].expand(4, 3, 6, 7)
    values = dict(zip(STATISTICS, clip_statistics(clip).exp().tolist(), strict=True))
    expected = {
        "log spatial gradient": 0, "log change": 0.65 / 3, "log change, largest step": 0.4,
        "log change, smallest step": 0.05, "log second change": (0.15 + 0.35) / 2,
        "log flicker of the mean colour": 0.65 / 3, "log change over half the clip": (0.25 + 0.45) / 2,
        "log change from end to end": 0.65,
    }  # fmt: skip
    for name, value in expected.items():
        assert values[name] == pytest.approx(value + 0.001, abs=1e-4), name
    assert values["log second change over change"] == pytest.approx(0.251 / (0.65 / 3 + 0.001), rel=1e-3)
    assert torch.tensor(values["changed pixels"]).log() == pytest.approx(2 / 3, abs=1e-4)


@pytest.mark.parametrize("shape", [(2, 3, 6, 7), (3, 6, 7)])
def test_clips_too_short_for_statistics_are_refused(shape):
    with pytest.raises(ValueError, match="^clip: got shape .*at least 3 frames"):
        clip_statistics(torch.rand(shape))
