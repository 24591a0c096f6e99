"""The comparison of modes: same start, same data, counted FLOPs, and the whole of it at toy size."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.comparison import __main__ as command
from benchmarks.comparison import runs
from fourreal_kernels.data import render_shard
from fourreal_kernels.model import load_model
from fourreal_kernels.training import load_recipe
from fourreal_kernels.training.trainer import Budget, _Run

every_mode = pytest.mark.parametrize("mode", runs.MODES)


@every_mode
def test_the_recipes_agree_and_give_no_way_around_the_synchronisation(mode):
    base, recipe = load_recipe(runs.HERE / "base.json").model, runs.mode_recipe(mode, 1, "sync")
    assert replace(base, **runs.MODES[mode]) == recipe.model
    assert not recipe.model.source_input and not recipe.model.matching and recipe.model.head == "direct"
    assert recipe.seed == 1 and {phase.trainable for phase in recipe.phases} == {"sync"}


def test_every_mode_sees_the_same_scenes_and_noise(small, tmp_path):
    data, base = small
    seen = {}
    for mode in runs.MODES:
        recipe = runs.mode_recipe(mode, 2, "sync")
        run = _Run(recipe, data, tmp_path / mode, Budget(steps=2), base, "cpu")
        batch = run.sampler.draw(recipe.phases[0])
        seen[mode] = batch.frames, batch.sigma, torch.randn(3, generator=run.generator)
        for name, weight in load_model(base).named_parameters():
            assert torch.equal(run.model.get_parameter(name), weight), name
    for other in seen.values():
        assert all(torch.equal(*pair) for pair in zip(seen["soft"], other, strict=True))


def test_the_whole_comparison_at_toy_size(small, tmp_path, monkeypatch, capsys):
    data, _ = small
    out = tmp_path / "out"
    argv = ["comparison", "--out", out, "--data", data, "--base-steps", 1, "--steps", 1, "--seeds", 2]
    argv += ["--train-scenes", 6, "--held-out-scenes", 1, "--modes", "hard", "fused"]
    monkeypatch.setattr("sys.argv", [str(word) for word in argv])
    command._main()
    result = json.loads((out / "comparison.json").read_text())
    assert set(result["modes"]) == {"hard", "fused"} and (out / "comparison.png").is_file()
    hard = result["modes"]["hard"]
    assert hard["beside_the_base"] > 0 and hard["seconds"] > 0
    runs_of_hard = [result["runs"][f"hard, seed {seed}, 8 steps"]["psnr"] for seed in (0, 1)]
    assert hard["quality"]["8 steps"]["psnr"]["mean"] == pytest.approx(sum(runs_of_hard) / 2)
    printed = capsys.readouterr().out
    assert (out / "comparison.md").read_text() in printed + "\n"
    assert "| hard, one step |" in printed and "| mean of both |" in printed


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The comparison's recipes with tiny models; six training scenes of 2 x 2 frames; a base."""
    changes = {"views": 2, "times": 2, "height": 16, "width": 16, "dim": 12, "depth": 1, "heads": 1}
    changes |= {"mlp_ratio": 2.0, "sync_cond_dim": 4, "head_features": 3}

    def load(path):
        recipe = load_recipe(path)
        phases = tuple(replace(phase, views=2, times=2, batch=2) for phase in recipe.phases)
        return replace(recipe, model=replace(recipe.model, **changes), phases=phases)

    monkeypatch.setattr(runs, "load_recipe", load)
    monkeypatch.setattr(runs, "GRIDS_PER_SHARD", 6)
    data = tmp_path / "data"
    render_shard(data / "a.safetensors", range(6), size=16, views=2, times=2, light_samples=1)
    return data, runs.train_base(data, tmp_path / "base-run", 1)
