"""What is trained: one base on single lines, then every mode over it with several seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fourreal_kernels.data.dataset import GridDataset
from fourreal_kernels.data.prerender import prerender
from fourreal_kernels.training import Recipe, load_recipe, train
from fourreal_kernels.training.trainer import Budget

HERE = Path(__file__).parent
# None of them gets the given frames by another way than attention and synchronisation: no source input, no matching,
# no head that mixes given frames.
MODES = {
    "sequential": {"mode": "sequential", "adapters": True},
    "hard": {"mode": "two_stream_hard"},
    "soft": {"mode": "two_stream_soft"},
    "fused": {"mode": "fused", "adapters": True},
}
GRIDS_PER_SHARD = 16


def render_data(folder: Path, scenes: int, workers: int) -> None:
    """Render the training scenes that are missing."""
    model = load_recipe(HERE / "base.json").model
    seeds = range(-(-scenes // GRIDS_PER_SHARD) * GRIDS_PER_SHARD)
    present = set(GridDataset(folder).seeds) if folder.is_dir() else set()
    if not present >= set(seeds):
        prerender(folder, list(seeds), workers, GRIDS_PER_SHARD, size=model.height)


def train_base(data: Path, out: Path, steps: int) -> Path:
    """The video model of single lines; returns the folder of its model."""
    return train(load_recipe(HERE / "base.json"), data, out / "base", Budget(steps=steps))


def mode_recipe(mode: str, seed: int, trainable: str) -> Recipe:
    """The second phase for one mode. The seed decides initialisation, scenes and noise, the same for every mode."""
    recipe = load_recipe(HERE / "grids.json")
    phases = tuple(replace(phase, trainable=trainable) for phase in recipe.phases)
    return replace(recipe, model=replace(recipe.model, **MODES[mode]), phases=phases, seed=seed)


def train_mode(mode: str, seed: int, trainable: str, data: Path, out: Path, base: Path, steps: int) -> Path:
    """One mode over the base; returns the folder of its model."""
    recipe = mode_recipe(mode, seed, trainable)
    return train(recipe, data, out / f"{mode}-{trainable}-{seed}", Budget(steps=steps), initial=base)
