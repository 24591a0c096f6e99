"""Recipes shrunk to models and grids on which a training step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fourreal_kernels.training import Phase, Recipe, load_recipe, train, trainer
from fourreal_kernels.training.trainer import Budget

VIEWS = TIMES = 3
SIZE = 16


def shrunk(recipe: Recipe, **changes) -> Recipe:
    """The recipe with a tiny model and tiny grids, all phases of the same length; all else as it is."""
    model = replace(
        recipe.model, views=VIEWS, times=TIMES, height=SIZE, width=SIZE, patch=8, dim=12, depth=1, heads=2,
        mlp_ratio=2.0, sync_cond_dim=4, head_features=3,
    )
    phases = tuple(
        replace(
            phase, share=1.0, views=min(phase.views, VIEWS), times=min(phase.times, TIMES), batch=min(phase.batch, 2)
        )
        for phase in recipe.phases
    )
    return replace(recipe, **{"model": model, "phases": phases} | changes)


def tiny_recipe(*phases: Phase, **changes) -> Recipe:
    """The bundled recipe, shrunk, without matching and with these phases."""
    recipe = shrunk(replace(load_recipe("bundled"), phases=phases))
    return replace(recipe, **{"model": replace(recipe.model, matching=False)} | changes)


def quiet_train(recipe: Recipe, data: Path, out: Path, steps: int, **options) -> Path:
    return train(recipe, data, out, Budget(steps=steps), **{"progress": False} | options)


def watch_steps(monkeypatch, watch: Callable[..., AbstractContextManager]) -> None:
    """Run every training step of a test inside ``watch(run)``."""
    step_once = trainer._Run.step_once

    def watched(run) -> None:
        with watch(run):
            step_once(run)

    monkeypatch.setattr(trainer._Run, "step_once", watched)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that differ in any bit."""
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
