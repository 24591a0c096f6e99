"""Recipes: round trip through JSON, what is refused, and every phase of every bundled recipe in practice."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from fourreal_kernels.model import load_model
from fourreal_kernels.training import Phase, Recipe, load_recipe
from fourreal_kernels.training.config import bundled_recipes
from tiny_training import changed, quiet_train, shrunk, snapshot, tiny_recipe, watch_steps

NAMES = bundled_recipes()
WITH_SYNC = [name for name in NAMES if load_recipe(name).model.has_sync]
_SYNC = ("sync.", "sync_cond.")


def test_the_bundled_recipes_are_there():
    assert {"bundled", "paper_soft", "paper_hard", "paper_sequential"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_through_json(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.description and recipe.phases
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.to_dict()))
    assert load_recipe(path) == recipe and load_recipe(str(path)).to_dict() == recipe.to_dict()
    changed_recipe = replace(recipe, phases=(replace(recipe.phases[0], batch=7), *recipe.phases[1:]))
    assert Recipe.from_dict(changed_recipe.to_dict()) == changed_recipe != recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is malformed"),
        ('{"model": {}}', "expected 'model' and 'phases'"),
        ('{"phases": []}', "expected 'model' and 'phases'"),
        ('{"model": {}, "phases": [], "speed": 1}', r"unknown settings \['speed'\]"),
        ('{"model": {"width2": 1}, "phases": []}', "unknown settings width2"),
        ('{"model": {}, "phases": [{}]}', "a phase needs a 'name'"),
        ('{"model": {}, "phases": [{"name": "a", "sample": "grids"}]}', r"unknown settings \['sample'\]"),
        ('{"model": {}, "phases": [{"name": "a", "samples": "clips"}]}', "samples: got 'clips', expected one of"),
        ('{"model": {}, "phases": [{"name": "a", "trainable": "base"}]}', "trainable: got 'base', expected one of"),
        ('{"model": {}, "phases": 3}', "is malformed"),
    ],
)
def test_malformed_recipes_are_refused(text, message, tmp_path):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path / "recipe.json")


def test_unknown_recipes_are_refused_with_the_names_of_the_known():
    with pytest.raises(ValueError, match="^recipe: got 'papr', expected a JSON file or one of bundled, .*paper_hard"):
        load_recipe("papr")


def test_the_paper_s_recipes_train_the_base_on_lines_and_then_the_synchronisation_on_grids():
    for name in ("paper_soft", "paper_hard"):
        recipe = load_recipe(name)
        stages = [(phase.samples, phase.trainable) for phase in recipe.phases]
        assert stages == [("lines", "all"), ("pseudo4d", "sync"), ("grids", "sync")]
        assert not recipe.model.source_input and not recipe.model.matching and recipe.model.head == "direct"


def test_the_recipes_of_a_gpu_window_share_one_base():
    base = load_recipe("window_base").model
    for name, mode in (("soft", "two_stream_soft"), ("hard", "two_stream_hard"), ("sequential", None), ("fused", None)):
        recipe = load_recipe(f"window_{name}")
        assert recipe.model.mode == (mode or name) and recipe.model.has_sync and recipe.precision == "bfloat16"
        assert replace(recipe.model, mode=base.mode, adapters=False) == base
        assert {phase.trainable for phase in recipe.phases} == {"sync"}


@pytest.mark.parametrize("name", NAMES)
def test_every_phase_trains_what_it_says(name, grids, tmp_path, monkeypatch):
    """Three steps of each phase: "sync" leaves every bit of the base, lines leave every bit of the synchronisation."""
    recipe = shrunk(load_recipe(name))
    steps = []

    @contextmanager
    def watch(run):
        before = snapshot(run.model)
        yield
        moved = changed(before, run.model.state_dict())
        sync = {name for name in moved if name.startswith(_SYNC)}
        steps.append((run.phase, sync, moved - sync))

    watch_steps(monkeypatch, watch)
    path = quiet_train(recipe, grids, tmp_path, steps=3 * len(recipe.phases))
    assert [phase.name for phase, _, _ in steps] == [phase.name for phase in recipe.phases for _ in range(3)]
    for phase in recipe.phases:
        sync, base = (set().union(*(step[part] for step in steps if step[0] is phase)) for part in (1, 2))
        assert bool(base) == (phase.trainable == "all"), phase.name
        assert bool(sync) == (name in WITH_SYNC and phase.samples != "lines"), phase.name
    weights = load_model(path).state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_phases_take_their_shares_of_the_run(grids, tmp_path, monkeypatch):
    sizes = {"views": 2, "times": 2}
    phases = Phase("first", share=1, **sizes), Phase("second", share=4, **sizes), Phase("third", share=3, **sizes)
    recipe = replace(tiny_recipe(), phases=phases)
    names = []

    @contextmanager
    def watch(run):
        yield
        names.append(run.phase.name)

    watch_steps(monkeypatch, watch)
    quiet_train(recipe, grids, tmp_path, steps=8)
    assert names == ["first"] + ["second"] * 4 + ["third"] * 3


@pytest.mark.parametrize("mode", ["sequential", "fused"])
def test_a_single_stream_has_no_synchronisation_to_train(mode, grids, tmp_path):
    """Said before anything is trained or written, also for a later phase."""
    recipe = shrunk(load_recipe("paper_soft"))
    recipe = replace(recipe, model=replace(recipe.model, mode=mode))
    with pytest.raises(ValueError, match="^recipe: phase 'stage 1, pseudo-4D' trains 'sync', but mode"):
        quiet_train(recipe, grids, tmp_path / "out", steps=3)
    assert not (tmp_path / "out").exists()


def test_learning_rate_rises_stays_and_falls(grids, tmp_path, monkeypatch):
    recipe = tiny_recipe(Phase("grids"), learning_rate=0.01, warmup=0.2, cooldown=0.4)
    rates = []

    @contextmanager
    def watch(run):
        rates.append(run._learning_rate())
        yield
        assert {group["lr"] for optimizer in run.optimizers for group in optimizer.param_groups} == {rates[-1]}

    watch_steps(monkeypatch, watch)
    quiet_train(recipe, grids, tmp_path, steps=10)
    expected = torch.tensor([0.001, 0.501, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]) * 0.01
    torch.testing.assert_close(torch.tensor(rates), expected)
