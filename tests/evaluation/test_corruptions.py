"""Every corruption does what its name says, and the harness notices each of them."""

import math

import pytest
import torch

from fourreal_kernels.data import HELD_OUT_SEED
from fourreal_kernels.evaluation.corruption_table import (
    FLAG_FACTOR,
    GEOMETRY_NAMES,
    corruption_markdown,
    corruption_table,
)
from fourreal_kernels.evaluation.corruptions import CORRUPTIONS
from fourreal_kernels.evaluation.extractors import Handcrafted
from fourreal_kernels.evaluation.geometry_metrics import GEOMETRY_ERRORS
from fourreal_kernels.evaluation.held_out import held_out_render
from fourreal_kernels.evaluation.plots import corruption_plot

SCENES = 4


@pytest.fixture(scope="module")
def renders():
    return [held_out_render(HELD_OUT_SEED + index, 4, 4, 32, 32) for index in range(SCENES)]


@pytest.fixture(scope="module")
def result(renders):
    return corruption_table(renders, [Handcrafted()])


def _corrupt(name, grids):
    return CORRUPTIONS[name](grids, torch.Generator().manual_seed(0))


def _grids():
    return [torch.rand(3, 4, 3, 12, 10, generator=torch.Generator().manual_seed(index)) for index in range(3)]


def test_time_frozen():
    for grid, found in zip(_grids(), _corrupt("time frozen", _grids()), strict=True):
        assert all(torch.equal(found[:, t], grid[:, 0]) for t in range(4))


def test_time_shuffled_reorders_each_view_by_itself():
    orders = []
    for grid, found in zip(_grids(), _corrupt("time shuffled", _grids()), strict=True):
        for line, true in zip(found, grid, strict=True):
            orders.append([[bool(torch.equal(frame, other)) for other in true].index(True) for frame in line])
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders) and len(set(map(tuple, orders))) > 3


def test_views_of_other_scenes():
    grids = _grids()
    found = _corrupt("views of other scenes", grids)
    for index in range(3):
        for view in range(3):
            assert torch.equal(found[index][view], grids[(index + view) % 3][view])


def test_jitter_shifts_every_frame_by_three_pixels():
    ramp = torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")) / 40
    grid = torch.cat([ramp, ramp[:1]]).expand(2, 3, 3, 40, 40)
    (found,) = _corrupt("jitter of 3 px", [grid])
    shift = 40 * (found - grid)[..., :2, 10:30, 10:30].mean((-1, -2))
    torch.testing.assert_close(shift.norm(dim=-1), torch.full((2, 3), 3.0), atol=1e-3, rtol=0)
    assert len({round(float(x), 3) for x in shift[..., 0].flatten()}) == 6


def test_colour_gains_differ_by_frame_and_channel():
    (found,) = _corrupt("colour gain 0.85-1.15", [torch.full((3, 4, 3, 5, 5), 0.5)])
    gain = found / 0.5
    assert gain.min() >= 0.85 and gain.max() <= 1.15 and gain.max() - gain.min() > 0.2
    assert torch.equal(gain.amax((-1, -2)), gain.amin((-1, -2)))
    assert len(gain[..., 0, 0].unique()) == 36


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_flagged_by_a_factor_of_three_over_the_clean_floor(result, name):
    flagged = result["flagged"][name]
    assert flagged == [metric for metric, found in result["factors"].items() if found[name] >= FLAG_FACTOR]
    assert FLAG_FACTOR == 3.0 and len(flagged) >= 2, result["factors"]


def test_what_is_blind_stays_blind(result):
    """Epipolar lines know no colours; freezing time changes no view lines; still lines stay still."""
    factors = result["factors"]
    assert 0.7 < factors[GEOMETRY_NAMES["epipolar_view"]]["colour gain 0.85-1.15"] < 1.5
    view_lines = next(metric for metric in factors if "view lines" in metric)
    assert 0.5 < factors[view_lines]["time frozen"] < 2


def test_factors_are_errors_over_clean_errors(result):
    for metric in GEOMETRY_ERRORS:
        for name in CORRUPTIONS:
            expected = result["geometry"][name][metric] / result["geometry"]["clean"][metric]
            assert result["factors"][GEOMETRY_NAMES[metric]][name] == pytest.approx(expected)
    for row in result["distances"]:
        assert row["factor"] == pytest.approx(row["frechet"] / row["frechet_floor"])
        assert row["clips"][0] == row["clips"][1] and row["frechet_floor"] > 0


def test_table_and_plot(result):
    lines = corruption_markdown(result).splitlines()
    assert len(lines) == 2 + len(result["factors"]) + 1
    assert all(line.count("|") == len(CORRUPTIONS) + 2 for line in lines)
    bold = sum(line.count("**") // 2 for line in lines)
    assert bold == sum(len(flagged) for flagged in result["flagged"].values())
    picture = corruption_plot(result)["corruptions.png"]
    assert picture.width > 800 and len(picture.getcolors(1 << 20)) > 20


def test_corruptions_without_matches_are_no_flags():
    result = {"factors": {"m": {"a": math.nan, "b": 5.0}}, "flagged": {"a": [], "b": ["m"]}}
    assert "| m | no matches | **5.00** |" in corruption_markdown(result)
    assert corruption_plot(result)["corruptions.png"].width > 100


def test_fewer_than_four_scenes_are_refused(renders):
    with pytest.raises(ValueError, match="^renders: got 3 scenes, expected at least 4"):
        corruption_table(renders[:3], [])
