"""200 steps from scratch: the loss falls, and a run that stopped in the middle ends with the same bits."""

import json
import shutil
from contextlib import contextmanager

import safetensors

from fourreal_kernels.model import load_model
from fourreal_kernels.training import Phase
from tiny_training import changed, quiet_train, tiny_recipe, watch_steps

STEPS, STOP, COUNTED = 200, 117, 40


def _state(out):
    with safetensors.safe_open(out / "state.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["progress"]) | {"seconds": 0}


def test_200_steps_lower_the_loss_and_resume_bit_by_bit(grids, tmp_path, monkeypatch):
    phases = Phase("lines", samples="lines", batch=2), Phase("grids", share=3.0, batch=2, flow_weight=0.01)
    recipe = tiny_recipe(*phases, learning_rate=0.01)
    whole, stopped, losses = tmp_path / "whole", tmp_path / "stopped", []

    @contextmanager
    def watch(run):
        if run.step == STOP and not stopped.exists():
            run.save()
            shutil.copytree(whole, stopped)
        previous, run.loss = run.loss, float("nan")
        yield
        losses.append(run.loss)
        run.loss = previous

    watch_steps(monkeypatch, watch)
    quiet_train(recipe, grids, whole, steps=STEPS)
    assert len(losses) == STEPS
    of_grids = losses[STEPS // 4 :]
    first, last = sum(of_grids[:COUNTED]) / COUNTED, sum(of_grids[-COUNTED:]) / COUNTED
    assert last < 0.5 * first, (first, last)

    quiet_train(recipe, grids, stopped, steps=STEPS)
    assert len(losses) == STEPS + STEPS - STOP and losses[STEPS:] == losses[STOP:STEPS]
    (expected, progress), (tensors, resumed) = _state(whole), _state(stopped)
    assert expected.keys() == tensors.keys() and not changed(expected, tensors)
    assert progress == resumed and progress["step"] == STEPS
    assert {"optimizer", "ema", "model"} <= {name.partition(".")[0] for name in expected}
    assert not changed(*(load_model(folder / "model").state_dict() for folder in (whole, stopped)))
