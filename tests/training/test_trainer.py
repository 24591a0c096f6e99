"""The training loop: it learns, resumes bit by bit, and refuses what it must not train on."""

import json
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import safetensors
import torch

from fourreal_kernels.data import HELD_OUT_SEED, render_shard
from fourreal_kernels.model import GridPipeline, load_model, save_model
from fourreal_kernels.training import Phase, load_recipe, train, trainer
from fourreal_kernels.training.trainer import Budget
from fourreal_kernels.training.validation import VALIDATION_GRIDS
from tiny_training import VIEWS, changed, quiet_train, shrunk, snapshot, tiny_recipe, watch_steps

GRIDS = Phase("grids", flow_weight=0.1)


def _state(out):
    with safetensors.safe_open(out / "state.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["progress"])


def _log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("head", ["warp", "direct"])
def test_overfits_one_grid(head, grids, tmp_path, monkeypatch):
    """The same batch over and over, from pure noise: the loss falls to a fraction."""
    recipe = tiny_recipe(Phase("grids", pure_noise=1.0, batch=2), learning_rate=0.02, warmup=0.0, cooldown=0.0)
    recipe = replace(recipe, model=replace(recipe.model, head=head, dim=24, depth=2, head_features=8))
    draw, batches, losses = trainer.BatchSampler.draw, [], []

    def first_batch(sampler, phase):
        batches.append(batches[0] if batches else draw(sampler, phase))
        return batches[-1]

    @contextmanager
    def watch(run):
        previous, run.loss = run.loss, float("nan")
        yield
        losses.append(run.loss)
        run.loss = previous

    monkeypatch.setattr(trainer.BatchSampler, "draw", first_batch)
    watch_steps(monkeypatch, watch)
    quiet_train(recipe, grids, tmp_path, steps=40)
    first, last = losses[0], sum(losses[-5:]) / 5
    assert last < 0.25 * first, (first, last)


class _Interrupt(Exception):
    pass


def _stop_after(monkeypatch, steps):
    @contextmanager
    def watch(run):
        if run.step == steps:
            raise _Interrupt
        yield

    watch_steps(monkeypatch, watch)


@pytest.mark.parametrize(
    ("name", "stops"),
    [("bundled", (1, 4)), ("paper_soft", (2, 3, 5)), ("paper_sequential", (3,))],
    ids=["within and between phases", "before, at and after the base is frozen", "one stream"],
)
def test_resuming_gives_every_bit_of_an_uninterrupted_run(name, stops, grids, tmp_path):
    recipe = shrunk(load_recipe(name))
    recipe = replace(recipe, model=replace(recipe.model, matching=False))
    quiet_train(recipe, grids, tmp_path / "whole", steps=6)
    expected, expected_progress = _state(tmp_path / "whole")
    out = tmp_path / "parts"
    for stop in stops:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(_Interrupt):
            _stop_after(patch, stop)
            quiet_train(recipe, grids, out, steps=6, save_minutes=0.0)
        assert _state(out)[1]["step"] == stop
    torch.manual_seed(99)
    quiet_train(recipe, grids, out, steps=6)
    tensors, progress = _state(out)
    assert not changed(expected, tensors) and expected.keys() == tensors.keys()
    assert {**progress, "seconds": 0} == {**expected_progress, "seconds": 0}
    whole, parts = (load_model(folder / "model").state_dict() for folder in (tmp_path / "whole", out))
    assert not changed(whole, parts)


def test_the_same_recipe_trains_the_same_model_and_the_seed_decides(grids, tmp_path):
    recipe = tiny_recipe(GRIDS)
    folders = [quiet_train(replace(recipe, seed=seed), grids, tmp_path / name, steps=2)
               for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, again, other = (load_model(folder).state_dict() for folder in folders)
    assert not changed(first, again) and changed(first, other)


def test_a_finished_run_is_not_trained_further(grids, tmp_path):
    recipe = tiny_recipe(GRIDS)
    quiet_train(recipe, grids, tmp_path, steps=2)
    before, _ = _state(tmp_path)
    quiet_train(recipe, grids, tmp_path, steps=2)
    after, progress = _state(tmp_path)
    assert not changed(before, after) and progress["step"] == 2


def test_writes_the_averaged_model_its_recipe_and_a_log(grids, tmp_path):
    recipe = tiny_recipe(GRIDS, ema=0.9)
    path = quiet_train(recipe, grids, tmp_path / "out", steps=20)
    assert path == tmp_path / "out" / "model"
    tensors, progress = _state(tmp_path / "out")
    averaged = load_model(path).state_dict()
    for name, tensor in averaged.items():
        assert torch.equal(tensor, tensors[f"ema.{name}"].half().float()), name
    assert any(not torch.equal(tensors[f"ema.{name}"], tensors[f"model.{name}"]) for name in averaged)
    assert load_recipe(path.parent / "recipe.json") == recipe
    step, validation = _log(path.parent)
    assert step["step"] == validation["step"] == progress["step"] == 20
    assert step["phase"] == "grids" and step["loss"] > 0 and step["flow"] > 0 and step["grids"] == 6
    assert set(validation["validation"]) == {"one_step", "mean_of_copies"}
    assert all(5 < value < 60 for value in validation["validation"].values())
    assert GridPipeline.from_pretrained(path).model.config == recipe.model


def test_starts_from_a_model_where_its_weights_fit(grids, tmp_path):
    """The base of a single-stream model becomes that of a two-stream model."""
    sequential = quiet_train(shrunk(load_recipe("paper_sequential")), grids, tmp_path / "base", steps=3)
    start = load_model(sequential).state_dict()
    recipe = shrunk(load_recipe("paper_soft"))
    recipe = replace(recipe, phases=recipe.phases[1:])
    path = quiet_train(recipe, grids, tmp_path / "sync", steps=2, initial=sequential)
    trained = load_model(path).state_dict()
    assert not changed(start, trained), "the base is the given one and stays frozen"
    assert set(trained) - set(start)


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 0.1}])
def test_a_folder_with_a_run_of_another_recipe_is_refused(change, grids, tmp_path):
    recipe = tiny_recipe(GRIDS)
    quiet_train(recipe, grids, tmp_path, steps=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="^out: .* holds a run of another recipe; choose another directory"):
        quiet_train(replace(recipe, **change), grids, tmp_path, steps=2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_validation_grids_are_not_trained_on(grids, tmp_path, monkeypatch):
    index, drawn = trainer.BatchSampler._index, []

    def recorded(sampler):
        drawn.append(index(sampler))
        return drawn[-1]

    monkeypatch.setattr(trainer.BatchSampler, "_index", recorded)
    quiet_train(tiny_recipe(GRIDS), grids, tmp_path, steps=12)
    assert set(drawn) == {VALIDATION_GRIDS, VALIDATION_GRIDS + 1}


def _only(tmp_path, seeds, **options):
    folder = tmp_path / "data"
    settings = {"size": 16, "views": VIEWS, "times": VIEWS, "light_samples": 0} | options
    render_shard(folder / "seeds.safetensors", seeds, **settings)
    return folder


@pytest.mark.parametrize(
    ("seeds", "options", "message"),
    [
        (range(VALIDATION_GRIDS), {}, "holds 4 grids, expected more than 4"),
        ([0, 1, 2, 3, HELD_OUT_SEED], {"allow_held_out": True}, "holds the held-out seed 900000"),
        (range(5), {"views": 2}, r"holds grids .* of \(2, 3, 3, 16, 16\), the recipe expects at least 3 x 3"),
        (range(5), {"times": 2}, r"holds grids .* of \(3, 2, 3, 16, 16\), the recipe expects at least 3 x 3"),
        (range(5), {"size": 24}, r"holds grids .* of \(3, 3, 3, 24, 24\), .* frames of \(3, 16, 16\)"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused(seeds, options, message, tmp_path):
    data = _only(tmp_path, list(seeds), **options)
    with pytest.raises(ValueError, match=f"^data: .*{message}"):
        quiet_train(tiny_recipe(GRIDS), data, tmp_path / "out", steps=1)
    assert not (tmp_path / "out").exists()


def test_a_missing_data_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        quiet_train(tiny_recipe(GRIDS), tmp_path / "nowhere", tmp_path / "out", steps=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "length",
    [{}, {"steps": 1, "minutes": 1.0}, {"steps": 0}, {"steps": -1}, {"minutes": 0.0}, {"minutes": float("nan")}],
)
def test_a_budget_is_one_positive_number(length):
    with pytest.raises(ValueError, match="^budget: got .*expected one of them, a positive number"):
        Budget(**length)


def test_a_budget_in_minutes_ends_by_the_clock(grids, tmp_path):
    recipe = tiny_recipe(GRIDS)
    train(recipe, grids, tmp_path, Budget(minutes=1e-9), progress=False)
    assert _state(tmp_path)[1]["step"] == 1
    assert Budget(minutes=2.0).done(7, 30.0) == 0.25 and Budget(steps=8).done(2, 1e9) == 0.25
    assert Budget(steps=8).done(9, 0.0) == 1


def test_progress_is_shown_on_request(grids, tmp_path, capsys):
    quiet_train(tiny_recipe(GRIDS), grids, tmp_path / "quiet", steps=1)
    assert capsys.readouterr() == ("", "")
    quiet_train(tiny_recipe(GRIDS), grids, tmp_path / "shown", steps=2, progress=True)
    output = capsys.readouterr()
    assert output.out == ""
    assert all(text in output.err for text in ("100%", "step 2, grids, loss", "min left"))


def test_without_tqdm_only_the_progress_bar_is_missing(grids, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert quiet_train(tiny_recipe(GRIDS), grids, tmp_path / "quiet", steps=1).is_dir()
    with pytest.raises(ImportError, match=r'tqdm.*pip install "fourreal-kernels\[generate\]"'):
        quiet_train(tiny_recipe(GRIDS), grids, tmp_path / "shown", steps=1, progress=True)


def test_weights_of_a_gradient_step_are_finite_when_a_batch_has_nothing_to_learn(grids, tmp_path, monkeypatch):
    """A random mask may give every frame of a small grid; the step must then not divide by zero."""
    monkeypatch.setattr(
        trainer.BatchSampler, "_given", lambda sampler, phase, views, times: torch.ones(views, times).bool()
    )
    path = quiet_train(tiny_recipe(GRIDS), grids, tmp_path, steps=2)
    assert all(tensor.isfinite().all() for tensor in load_model(path).state_dict().values())


def test_a_model_of_another_size_is_no_obstacle_as_a_start(grids, tmp_path):
    recipe = tiny_recipe(GRIDS)
    torch.manual_seed(1)
    wide = trainer.GridTransformer(replace(recipe.model, dim=24))
    save_model(wide, tmp_path / "wide")
    path = quiet_train(recipe, grids, tmp_path / "out", steps=1, initial=tmp_path / "wide")
    assert snapshot(load_model(path))["embed.conv.bias"].shape == (12,)
