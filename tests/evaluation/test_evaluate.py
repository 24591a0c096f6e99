"""Trivial baselines by their formulas, what is measured, and a whole evaluation of a tiny model."""

import json
import math
import sys

import pytest
import torch

from fourreal_kernels.data import HELD_OUT_SEED
from fourreal_kernels.evaluation import evaluate
from fourreal_kernels.evaluation.baselines import trivial_baselines
from fourreal_kernels.evaluation.evaluate import ALIGNED, METRICS, PREDICTIONS, measure, table
from fourreal_kernels.evaluation.held_out import held_out_grid
from fourreal_kernels.model import GridPipeline
from tiny_models import random_model

BASELINES = {
    "copy of the fixed-view frame", "copy of the freeze-time frame", "mean of both",
    "mean where changed, else freeze-time", "additive",
}


@pytest.fixture(scope="module")
def pipeline():
    return GridPipeline(random_model(views=3, times=3, height=16, width=12))


def _by_formula(name, f, v, t):
    """The prediction of frame (v, t) from the given frames of ``f``, pixel by pixel where it says so."""
    if name == "copy of the fixed-view frame":
        return f[0, t]
    if name == "copy of the freeze-time frame":
        return f[v, 0]
    if name == "mean of both":
        return 0.5 * f[0, t] + 0.5 * f[v, 0]
    if name == "additive":
        return (f[v, 0] + f[0, t] - f[0, 0]).clamp(0, 1)
    expected = f[v, 0].clone()
    for y in range(f.shape[-2]):
        for x in range(f.shape[-1]):
            if max(abs(float(f[0, t, c, y, x] - f[0, 0, c, y, x])) for c in range(3)) > 0.1:
                expected[:, y, x] = 0.5 * f[0, t, :, y, x] + 0.5 * f[v, 0, :, y, x]
    return expected


def test_trivial_baselines_follow_their_formulas():
    frames = torch.rand(3, 2, 3, 4, 5)
    frames[0, 1] = frames[0, 0] + 0.2 * torch.randn(3, 4, 5) * (torch.rand(3, 4, 5) < 0.4)
    predictions = trivial_baselines(frames[0], frames[:, 0])
    assert set(predictions) == BASELINES
    for name, predicted in predictions.items():
        assert predicted.shape == frames.shape
        for v in range(3):
            for t in range(2):
                torch.testing.assert_close(predicted[v, t], _by_formula(name, frames, v, t), msg=f"{name} {v} {t}")


def test_only_generated_frames_are_measured():
    truth = torch.rand(3, 3, 3, 16, 12)
    predicted = (truth + 0.1 * torch.randn_like(truth)).clamp(0, 1)
    values = measure(predicted, truth)
    assert set(values) == set(METRICS)
    inner = predicted[1:, 1:] - truth[1:, 1:]
    assert values["psnr"] == pytest.approx(-10 * math.log10(inner.square().mean()), abs=1e-3)
    changed = predicted.clone()
    changed[0], changed[:, 0] = 0, 1
    assert measure(changed, truth) == values
    changed[2, 1] = 0
    assert measure(changed, truth) != values


def test_a_copy_of_the_truth_is_perfect():
    truth = torch.rand(2, 3, 3, 16, 12)
    values = measure(truth.clone(), truth)
    assert values["psnr"] > 100 and values["psnr_moving"] > 100
    assert values["ssim"] == pytest.approx(1) and values["gradient_energy_moving"] == pytest.approx(1)


def test_held_out_grid_is_the_rendered_scene_in_eight_bits():
    frames = held_out_grid(HELD_OUT_SEED, 2, 3, 12, 16)
    assert frames.shape == (2, 3, 3, 12, 16) and frames.min() >= 0 and frames.max() <= 1 and frames.std() > 0.05
    torch.testing.assert_close(frames * 255, (frames * 255).round(), atol=1e-4, rtol=0)
    assert torch.equal(frames, held_out_grid(HELD_OUT_SEED, 2, 3, 12, 16))
    assert not torch.equal(frames, held_out_grid(HELD_OUT_SEED + 1, 2, 3, 12, 16))


def test_evaluation_of_one_scene(pipeline, capsys):
    result = evaluate(pipeline, [HELD_OUT_SEED + 3], steps=2, sampler="heun", progress=False)
    assert capsys.readouterr() == ("", "")
    assert result["settings"] == {"steps": 2, "sampler": "heun", "family": "easy", "seeds": [HELD_OUT_SEED + 3]}
    names = BASELINES | set(PREDICTIONS) | {ALIGNED}
    scene = result["scenes"][HELD_OUT_SEED + 3]
    assert set(result["mean"]) == set(scene) == names
    for name in names:
        assert set(scene[name]) == set(METRICS) and result["mean"][name] == scene[name]
        assert all(math.isfinite(value) for value in scene[name].values()), name
    assert scene["one step"] != scene["sampled"]
    json.dumps(result)
    truth = held_out_grid(HELD_OUT_SEED + 3, 3, 3, 16, 12)
    video = pipeline(truth[0], truth[:, 0], steps=2, sampler="heun", progress=False)
    assert scene["sampled"] == measure(video.frames, truth)
    mean = (truth[:1] + truth[:, :1]) / 2
    assert scene["mean of both"]["psnr"] == pytest.approx(measure(mean, truth)["psnr"], abs=1e-4)


def test_means_are_over_scenes_and_the_same_call_gives_the_same_numbers(pipeline):
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + 2)
    result, again = (evaluate(pipeline, seeds, steps=1, progress=False) for _ in range(2))
    assert result == again and list(result["scenes"]) == list(seeds)
    for name, values in result["mean"].items():
        for metric, value in values.items():
            scenes = [scene[name][metric] for scene in result["scenes"].values()]
            assert value == pytest.approx(sum(scenes) / 2) and scenes[0] != scenes[1]


def _result(**means):
    rows = {name: dict(zip(METRICS, values, strict=True)) for name, values in means.items()}
    return {"mean": rows}


def test_table_shows_every_prediction_and_the_margins_over_the_best_baseline_of_each_metric():
    rows = {
        "copy": (20.0, 15.0, 0.5, 1.0),
        "mean": (18.0, 16.0, 0.25, 0.5),
        ALIGNED: (30.0, 30.0, 0.9, 1.0),
        "one step": (22.0, 17.5, 0.75, 0.625),
        "sampled": (19.5, 15.75, 0.375, 0.9375),
    }
    lines = table(_result(**rows)).splitlines()
    assert all(line.startswith("|") and line.endswith("|") and line.count("|") == 6 for line in lines)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(cells) == 2 + len(rows) + 2
    assert [row[0] for row in cells[2:7]] == list(rows)
    assert cells[2][1:] == ["20.00", "15.00", "0.500", "1.000"]
    assert cells[6][1:] == ["19.50", "15.75", "0.375", "0.938"]
    assert cells[7][0].startswith("one step, over the best") and cells[7][1:] == ["+2.00", "+1.50", "+0.250", ""]
    assert cells[8][0].startswith("sampled, over the best") and cells[8][1:] == ["-0.50", "-0.25", "-0.125", ""]


def test_table_of_a_real_result(pipeline):
    result = evaluate(pipeline, [HELD_OUT_SEED], steps=1, progress=False)
    text = table(result)
    assert all(name in text for name in (*BASELINES, *PREDICTIONS, ALIGNED))
    assert f"{result['mean']['additive']['psnr']:.2f}" in text


@pytest.mark.parametrize("seeds", [[HELD_OUT_SEED - 1], [HELD_OUT_SEED, 5], [0]])
def test_seeds_that_may_have_been_trained_on_are_refused_before_anything_runs(pipeline, seeds, monkeypatch):
    monkeypatch.setattr(GridPipeline, "__call__", None)
    with pytest.raises(ValueError, match="^seeds: got .*, expected at least 900000"):
        evaluate(pipeline, seeds, progress=False)
    with pytest.raises(ValueError, match="^seed: got 899999, expected at least 900000"):
        held_out_grid(HELD_OUT_SEED - 1, 2, 2, 16, 16)


@pytest.mark.parametrize("seeds", [[], range(0)])
def test_no_seeds_are_refused(pipeline, seeds):
    with pytest.raises(ValueError, match="^seeds: got none"):
        evaluate(pipeline, seeds, progress=False)


def test_progress_is_shown_on_request_and_needs_tqdm(pipeline, capsys, monkeypatch):
    evaluate(pipeline, [HELD_OUT_SEED], steps=1, progress=True)
    assert "1/1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert evaluate(pipeline, [HELD_OUT_SEED], steps=1, progress=False)["scenes"]
    with pytest.raises(ImportError, match=r'tqdm.*pip install "fourreal-kernels\[generate\]"'):
        evaluate(pipeline, [HELD_OUT_SEED], steps=1, progress=True)
