"""What a GPU window needs, on the CPU: grids rendered while training, bfloat16, compiled layers, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fourreal_kernels.data.pool import PoolSettings
from fourreal_kernels.model import load_model
from fourreal_kernels.training import Phase, parallel, trainer
from fourreal_kernels.training.state import saved_progress
from tiny_training import changed, quiet_train, tiny_recipe

HELPERS = Path(__file__).parents[1] / "helpers"
POOL = PoolSettings(capacity=3, uses=2.0, start=2, light_samples=1, threaded=False)
LINES, GRIDS = Phase("lines", samples="lines"), Phase("grids", batch=2, flow_weight=0.01)


def _log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_training_on_a_pool_resumes_bit_by_bit(tmp_path):
    recipe = tiny_recipe(LINES, GRIDS)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    quiet_train(recipe, POOL, whole, steps=8)
    assert _log(whole)[-1]["validation"]
    quiet_train(recipe, POOL, stopped, steps=8, save_minutes=1000)
    first = load_model(whole / "model").state_dict()
    assert not changed(first, load_model(stopped / "model").state_dict())
    halves = tmp_path / "halves"
    _train_until(recipe, halves, 5)
    quiet_train(recipe, POOL, halves, steps=8)
    assert not changed(first, load_model(halves / "model").state_dict())


def _train_until(recipe, out: Path, stop: int) -> None:
    """Save and end at a step of a run that is longer, so that learning rates and phases are those of the whole."""
    run = trainer._Run(recipe, POOL, out, trainer.Budget(steps=8), None, "cpu")
    for _ in range(stop):
        run.step_once()
    run.save()


def test_bfloat16_trains_with_float32_weights(grids, tmp_path):
    recipe = tiny_recipe(GRIDS, precision="bfloat16", learning_rate=0.01)
    run = trainer._Run(recipe, grids, tmp_path / "low", trainer.Budget(steps=80), None, "cpu")
    dtypes, losses = set(), []
    run.model.sync[0].register_forward_pre_hook(lambda _, inputs: dtypes.add(inputs[0].dtype))
    for _ in range(80):
        run.loss = float("nan")
        run.step_once()
        losses.append(run.loss)
    assert dtypes == {torch.bfloat16}
    kept = [x for p in run.model.parameters() for x in (p, p.grad)]
    assert {x.dtype for x in kept} == {torch.float32}
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_bfloat16_is_near_float32(grids, tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        recipe = tiny_recipe(GRIDS, precision=precision)
        run = trainer._Run(recipe, grids, tmp_path / precision, trainer.Budget(steps=9), None, "cpu")
        for _ in range(6):
            run.loss = float("nan")
            run.step_once()
        losses[precision] = run.loss
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


@pytest.mark.slow
def test_compiled_layers_train_to_the_same_losses(grids, tmp_path):
    losses = {}
    for compiled in (False, True):
        recipe = tiny_recipe(GRIDS, compile=compiled)
        run = trainer._Run(recipe, grids, tmp_path / str(compiled), trainer.Budget(steps=9), None, "cpu")
        losses[compiled] = []
        for _ in range(3):
            run.loss = float("nan")
            run.step_once()
            losses[compiled].append(run.loss)
        names = set(run.model.state_dict())
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    assert not any("_orig_mod" in name for name in names)


def test_speed_is_logged(grids, tmp_path):
    quiet_train(tiny_recipe(GRIDS), grids, tmp_path, steps=20)
    assert any({"grids_per_second", "seconds_per_step", "tflops"} <= set(entry) for entry in _log(tmp_path))


_RANK = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from fourreal_kernels.training import Phase, trainer
from fourreal_kernels.training.parallel import current_ranks, process_group
from tiny_training import tiny_recipe
data, out = map(Path, sys.argv[1:3])
with process_group(torch.device("cpu")):
    rank = current_ranks().rank
    run = trainer._Run(tiny_recipe(Phase("grids", batch=2)), data, out, trainer.Budget(steps=4), None, "cpu")
    drawn = []
    draw = run.sampler.draw
    run.sampler.draw = lambda phase: drawn.append(draw(phase)) or drawn[-1]
    while run.done < 1:
        run.step_once()
    run.save()
    torch.save({"weights": run.model.state_dict(), "first": drawn[0].frames}, out.parent / f"rank{rank}.pt")
"""


def test_two_processes_train_one_model(grids, tmp_path):
    """Equal weights on both, other samples on each, and one writer; then the same folder resumes with one process."""
    out = tmp_path / "out"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(HELPERS.parents[1]), str(HELPERS))), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    script = tmp_path / "rank.py"
    script.write_text(_RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, grids, out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert not changed(*(rank["weights"] for rank in ranks))
    assert not torch.equal(*(rank["first"] for rank in ranks))
    assert saved_progress(out)["step"] == 4 and len(_log(out)) == 1
    quiet_train(tiny_recipe(Phase("grids", batch=2)), grids, out, steps=5)
    assert saved_progress(out)["step"] == 5


def test_averaged_gradients_are_those_of_the_whole_batch(monkeypatch):
    """Against one process: the mean over ranks of the gradients of their halves, None where none has one."""
    weights = [torch.nn.Parameter(torch.randn(size)) for size in ((3, 2), (2,), (1,))]
    of_other = [torch.randn(3, 2), torch.randn(2), None]
    weights[0].grad = torch.randn(3, 2)
    mine = weights[0].grad.clone()

    def all_reduce(flat):
        flat += torch.cat([of_other[0].flatten(), of_other[1], torch.zeros(1), torch.tensor([1.0, 1.0, 0.0])])

    monkeypatch.setattr(parallel.dist, "all_reduce", all_reduce)
    parallel.Ranks(0, 2).average_gradients(weights)
    torch.testing.assert_close(weights[0].grad, (mine + of_other[0]) / 2)
    torch.testing.assert_close(weights[1].grad, of_other[1] / 2)
    assert weights[2].grad is None


@pytest.mark.parametrize(
    ("change", "message"), [({"precision": "half"}, "precision: got 'half'"), ({"compile": 1}, "compile: got 1")]
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny_recipe(GRIDS), **change)
