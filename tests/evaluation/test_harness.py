"""The whole harness on tiny grids: geometry, distances beside their floor, scores, tables and plots."""

import json
import math

import pytest
import torch

from fourreal_kernels.data import HELD_OUT_SEED
from fourreal_kernels.evaluation.distribution import frechet_distance, kernel_distance
from fourreal_kernels.evaluation.evaluate import DETAILED, PREDICTIONS, evaluate
from fourreal_kernels.evaluation.extractors import Handcrafted, ScoreExtractor
from fourreal_kernels.evaluation.extractors.interface import FeatureExtractor
from fourreal_kernels.evaluation.extractors.weights import ExtractorSpec, Weights
from fourreal_kernels.evaluation.frechet import CLEAN, LineFeatures
from fourreal_kernels.evaluation.geometry_metrics import FEATURE_ERRORS, GEOMETRY_ERRORS, GridGeometry, mean_of
from fourreal_kernels.evaluation.held_out import held_out_render
from fourreal_kernels.evaluation.plots import consistency_plot, scene_plot
from fourreal_kernels.evaluation.protocol import PROTOCOL
from fourreal_kernels.evaluation.report import further_tables
from fourreal_kernels.model import GridPipeline
from fourreal_kernels.model.conditioning import cross_mask
from tiny_models import random_model

SPEC = ExtractorSpec("mean colours", (), "here", None, None, "none", 3, "none")


class MeanColours(FeatureExtractor):
    spec = SPEC

    def features(self, clips):
        return torch.stack([clip.mean((0, 2, 3)) for clip in clips])


class Brightness(ScoreExtractor):
    spec = ExtractorSpec("brightness", (), "here", None, None, "none", 1, "none")

    def scores(self, grid, caption):
        assert "the camera orbits" in caption
        return {self.label("", "mean of all values"): float(grid.mean())}


NONE = Weights(None, None, "not checked")


@pytest.fixture(scope="module")
def result():
    pipeline = GridPipeline(random_model(views=3, times=3, height=16, width=12))
    extractors = [Handcrafted(), Brightness(NONE)]
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + 2)
    return evaluate(pipeline, seeds, steps=1, geometry=True, extractors=extractors, progress=False)


def test_every_prediction_is_warped_and_some_are_matched(result):
    mean = result["geometry"]["mean"]
    assert list(mean) == [CLEAN, *result["mean"]]
    for name, values in mean.items():
        assert all(math.isfinite(values[metric]) for metric in ("reprojection_view", "warp_time"))
        assert ("epipolar_view" in values) == (name == CLEAN or name in DETAILED)
    assert mean[CLEAN]["reprojection_view"] < min(mean[name]["reprojection_view"] for name in PREDICTIONS)
    render = held_out_render(HELD_OUT_SEED, 3, 3, 16, 12)
    truth = GridGeometry(render, cross_mask(3, 3)).measure(render.frames)
    found = result["geometry"]["scenes"][CLEAN][HELD_OUT_SEED]
    assert {name: found[name] for name in truth} == pytest.approx(truth, nan_ok=True)


def test_distances_and_scores_are_those_of_the_detailed_predictions(result):
    assert {row["prediction"] for row in result["distances"]} == set(DETAILED)
    assert {row["lines"] for row in result["distances"]} == {"time lines", "view lines", "diagonals"}
    assert set(result["scores"]["mean"]) == {CLEAN, *DETAILED}
    assert result["extractors"]["handcrafted motion and colour statistics"]["official"] is False
    json.dumps(result)


def test_tables_name_the_extractor_and_the_choices_that_are_ours(result):
    text = further_tables(result)
    assert all(line in text for line in PROTOCOL) and "The paper's protocol" in PROTOCOL[0]
    assert text.count("[handcrafted motion and colour statistics]") == len(result["distances"])
    assert "mean of all values [brightness]" in text
    explained = next(line for line in PROTOCOL if "FVD-F" in line)
    assert "FVD" not in text.replace(explained, "")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    spread = result["deviation"]["sampled"]["psnr"]
    assert f"| sampled | {spread:.3f} ({spread / 2**0.5:.3f}) |" in text
    rows = len(result["mean"]) + len(result["geometry"]["mean"]) + len(result["distances"]) + 1
    assert len(lines) == 4 * 2 + rows


def test_plots_show_scenes_and_factors(result):
    pictures = scene_plot(result) | consistency_plot(result)
    assert list(pictures) == ["scenes.png", "consistency.png"]
    assert all(picture.width > 600 and picture.height > 200 for picture in pictures.values())
    assert consistency_plot({}) == {}


def test_deviations_are_over_scenes(result):
    values = torch.tensor([scene["one step"]["psnr"] for scene in result["scenes"].values()])
    assert result["deviation"]["one step"]["psnr"] == pytest.approx(float(values.std()), rel=1e-3)


def test_distances_compare_each_half_with_the_truth_of_the_other():
    generator = torch.Generator().manual_seed(0)
    true = [torch.rand(3, 4, 3, 5, 6, generator=generator) for _ in range(5)]
    made = [grid**2 for grid in true]
    collected = LineFeatures(MeanColours(NONE))
    for name, grids in ((CLEAN, true), ("squared", made)):
        for grid in grids:
            collected.add(name, grid)
    rows = {row["lines"]: row for row in collected.rows()}
    assert set(rows) == {"time lines", "view lines", "diagonals", "whole grid"}

    def features(grids):
        return torch.stack([line.mean((0, 2, 3)) for grid in grids for line in grid])

    row = rows["time lines"]
    ways = ((true[:2], true[2:], made[2:]), (true[2:], true[:2], made[:2]))
    for key, distance in (("frechet", frechet_distance), ("kid", kernel_distance)):
        found = [distance(features(reference), features(tested)) for reference, _, tested in ways]
        floor = [distance(features(reference), features(other)) for reference, other, _ in ways]
        assert row[key] == pytest.approx(sum(found) / 2) and row[f"{key}_floor"] == pytest.approx(sum(floor) / 2)
    assert row["factor"] == pytest.approx(row["frechet"] / row["frechet_floor"]) and row["clips"] == [6, 9]
    assert row["label"] == "Frechet distance, time lines [mean colours]"
    assert rows["whole grid"]["clips"] == [2, 3]


def test_lines_with_too_few_clips_have_no_distance():
    collected = LineFeatures(MeanColours(NONE))
    for name in (CLEAN, "other"):
        for seed in range(3):
            collected.add(name, torch.rand(3, 3, 3, 4, 4, generator=torch.Generator().manual_seed(seed)))
    assert {row["lines"] for row in collected.rows()} == {"time lines", "view lines", "diagonals"}
    one = LineFeatures(MeanColours(NONE))
    one.add(CLEAN, torch.rand(3, 3, 3, 4, 4))
    assert one.rows() == []


def test_standardised_features_have_no_scale():
    class Scaled(MeanColours):
        standardised, factor = True, 1.0

        def features(self, clips):
            return self.factor * super().features(clips) + self.factor

    rows = []
    for factor in (1.0, 50.0):
        extractor = Scaled(NONE)
        extractor.factor = factor
        collected = LineFeatures(extractor)
        for name, power in ((CLEAN, 1), ("other", 2)):
            for seed in range(4):
                grid = torch.rand(3, 3, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
                collected.add(name, grid**power)
        rows.append(collected.rows()[0]["frechet"])
    assert rows[0] == pytest.approx(rows[1], rel=1e-3)


def test_means_leave_out_scenes_without_matches():
    found = mean_of([{"a": 1.0, "b": math.nan}, {"a": math.nan, "b": math.nan}, {"a": 3.0, "b": math.nan}])
    assert found["a"] == 2.0 and math.isnan(found["b"])


def test_flat_grids_have_no_matches():
    render = held_out_render(HELD_OUT_SEED, 2, 2, 16, 16)
    values = GridGeometry(render).measure(torch.full((2, 2, 3, 16, 16), 0.5))
    assert all(math.isnan(values[metric]) for metric in FEATURE_ERRORS)
    assert max(values["reprojection_view"], values["warp_time"]) < 1e-9 and values["matches_view"] == 0
    assert set(GEOMETRY_ERRORS) < set(values)
