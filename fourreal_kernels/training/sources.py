"""Where a run's grids come from, checked against its recipe before anything is written."""

from __future__ import annotations

from pathlib import Path

import torch

from ..data.dataset import GridDataset
from ..data.pool import GridPool, PoolSettings
from ..data.scenes import is_held_out
from .config import Recipe
from .parallel import Ranks
from .validation import VALIDATION_GRIDS


def open_source(
    recipe: Recipe, data: str | Path | PoolSettings, device: str | torch.device, ranks: Ranks
) -> GridDataset | GridPool:
    """The shards in a directory, or a pool, not yet filled, in which grids are rendered.

    Raises:
        ValueError: the recipe cannot be trained on these data.
        FileNotFoundError: the directory does not exist.
    """
    model = recipe.model
    for phase in recipe.phases:
        if phase.trainable == "sync" and not model.has_sync:
            raise ValueError(f"recipe: phase {phase.name!r} trains 'sync', but mode {model.mode} has none")
    if isinstance(data, PoolSettings):
        if model.height != model.width:
            size = f"{model.width}x{model.height}"
            raise ValueError(f"recipe: its frames of {size} are not square, so its scenes cannot be rendered")
        _check_sizes(recipe, (model.views, model.times, 3, model.height, model.width), "recipe: its model has")
        return GridPool(
            data, model.height, model.views, model.times, device,
            kept=VALIDATION_GRIDS, rank=ranks.rank, ranks=ranks.count,
        )
    dataset = GridDataset(data)
    where = f"data: {dataset.directory} holds"
    if len(dataset) <= VALIDATION_GRIDS:
        raise ValueError(f"{where} {len(dataset)} grids, expected more than {VALIDATION_GRIDS}")
    for seed in dataset.seeds:
        if is_held_out(seed):
            raise ValueError(f"{where} the held-out seed {seed}, on which nothing may be trained")
    _check_sizes(recipe, tuple(dataset.frames(0).shape), where)
    return dataset


def _check_sizes(recipe: Recipe, shape: tuple[int, ...], where: str) -> None:
    model = recipe.model
    views, times = (max(getattr(phase, axis) for phase in recipe.phases) for axis in ("views", "times"))
    if shape[0] < views or shape[1] < times or shape[3:] != (model.height, model.width):
        raise ValueError(
            f"{where} grids (V, T, 3, H, W) of {shape}, the recipe expects at least {views} x {times} frames of "
            f"(3, {model.height}, {model.width})"
        )
