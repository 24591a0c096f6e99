"""``python -m benchmarks.comparison --out DIR``: trains and measures everything; goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from fourreal_kernels.cli.environment import versions
from fourreal_kernels.data import HELD_OUT_SEED
from fourreal_kernels.data.contact_sheet import comparison_sheet
from fourreal_kernels.evaluation.held_out import held_out_grid
from fourreal_kernels.model import GridPipeline
from fourreal_kernels.model.conditioning import cross_mask
from fourreal_kernels.training.flops import forward_flops

from .costs import parameters, seconds_and_memory
from .quality import TRUTH, measure_scenes, over_scenes, over_seeds
from .runs import MODES, mode_recipe, render_data, train_base, train_mode
from .table import markdown

SAMPLING_STEPS = 8


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of rendered scenes (default: OUT/data)")
    parser.add_argument("--train-scenes", type=int, default=384)
    parser.add_argument("--base-steps", type=int, default=1600)
    parser.add_argument("--steps", type=int, default=240, help="optimiser steps of every mode over the base")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every mode")
    parser.add_argument("--trainable", choices=("sync", "all"), default="sync", help="all: the base is not frozen")
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=list(MODES))
    parser.add_argument("--held-out-scenes", type=int, default=32)
    parser.add_argument("--threads", type=int, help="threads (default: torch's choice)")
    return parser.parse_args()


def _main() -> None:
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = arguments.data or arguments.out / "data"
    render_data(data, arguments.train_scenes, torch.get_num_threads())
    base = train_base(data, arguments.out, arguments.base_steps)
    models = {}
    for seed in range(arguments.seeds):
        for mode in arguments.modes:
            path = train_mode(mode, seed, arguments.trainable, data, arguments.out, base, arguments.steps)
            models[f"{mode}, seed {seed}"] = GridPipeline.from_pretrained(path)
    result = _result(arguments, models)
    (arguments.out / "comparison.json").write_text(json.dumps(result, indent=2) + "\n")
    (arguments.out / "comparison.md").write_text(markdown(result) + "\n")
    _sheet(arguments, models).save(arguments.out / "comparison.png")
    print(markdown(result))


def _result(arguments: argparse.Namespace, models: dict[str, GridPipeline]) -> dict:
    scenes = measure_scenes(models, arguments.held_out_scenes, SAMPLING_STEPS)
    means = {name: over_scenes(values) for name, values in scenes.items()}
    costs = seconds_and_memory({mode: models[f"{mode}, seed 0"] for mode in arguments.modes}, SAMPLING_STEPS)
    modes = {}
    for mode in arguments.modes:
        config = mode_recipe(mode, 0, arguments.trainable).model
        quality = {
            f"{steps} steps": over_seeds([means[f"{mode}, seed {s}, {steps} steps"] for s in range(arguments.seeds)])
            for steps in (1, SAMPLING_STEPS)
        }
        flops = sum(forward_flops(config, config.views, config.times).values())
        modes[mode] = {"flops": flops, **parameters(config), **costs[mode], "quality": quality}
    settings = {name: value for name, value in vars(arguments).items() if name not in ("out", "data")}
    return {
        "settings": settings | {"sampling_steps": SAMPLING_STEPS, "torch_threads": torch.get_num_threads()},
        "modes": modes,
        "runs": means,
        "scenes": {name: values for name, values in scenes.items() if name != TRUTH},
        "versions": versions(),
    }


def _sheet(arguments: argparse.Namespace, models: dict[str, GridPipeline]):
    """The first held-out scene by the first run of every mode, beside the truth."""
    config = next(iter(models.values())).model.config
    truth = held_out_grid(HELD_OUT_SEED, config.views, config.times, config.height, config.width)
    grids = {
        mode: models[f"{mode}, seed 0"](truth[0], truth[:, 0], steps=SAMPLING_STEPS, progress=False).frames
        for mode in arguments.modes
    }
    given = dict.fromkeys(grids, cross_mask(*truth.shape[:2]))
    return comparison_sheet(grids | {"truth": truth}, given=given)


if __name__ == "__main__":
    _main()
