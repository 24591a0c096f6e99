"""How good a model's grids are as the steps, the size of the grid and the given frames change.

``python -m benchmarks.quality steps|grids|given --scenes N --json PATH``: held-out scenes against their truth. The file
is written after every scene, and the tables of all scenes so far are printed.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from fourreal_kernels.cli.environment import versions
from fourreal_kernels.data import HELD_OUT_SEED
from fourreal_kernels.data.scene_family import EASY, SceneFamily
from fourreal_kernels.evaluation.baselines import trivial_baselines
from fourreal_kernels.evaluation.evaluate import METRICS, deviation, measure, over_scenes
from fourreal_kernels.evaluation.held_out import held_out_grid
from fourreal_kernels.model import GridPipeline, cross_mask
from fourreal_kernels.model.conditioning import nearest_sources
from fourreal_kernels.model.continuation import WINDOWS

SAMPLERS = (*(("euler", steps) for steps in (1, 2, 3, 4, 8, 40)), ("heun", 2), ("heun", 4))
# Twice the camera arc, the travel and the turns of "easy": 16 frames are as far apart as the 8 of the training scenes.
FAR = replace(
    EASY, name="easy, twice as far", orbit_degrees=(16.0, 36.0), travel=(0.8, 1.7), spin_degrees=(40.0, 120.0),
    motion_pixels=(10.0, 26.0), placement_radius=1.5, frame_margin=0.1,
)  # fmt: skip
LARGE = ((4, 16, EASY), (16, 4, EASY), (16, 16, EASY), (16, 16, FAR))
COUNT_OF_RANDOM = 15

# Group of rows, name, what predicts the frames, which frames are given, the truth.
Row = tuple[str, str, Callable[[], Tensor], Tensor, Tensor]


def steps_rows(pipeline: GridPipeline, seed: int) -> Iterator[Row]:
    """One grid of the size the model was trained on, by sampler and number of steps."""
    truth = _truth(pipeline, seed)
    given = cross_mask(*truth.shape[:2])
    for sampler, steps in SAMPLERS:
        yield "", f"{sampler} {steps}", _completed(pipeline, truth, given, steps=steps, sampler=sampler), given, truth


def grid_rows(pipeline: GridPipeline, seed: int) -> Iterator[Row]:
    """Grids larger than the model was trained on, by kind of windows."""
    for views, times, family in LARGE:
        truth = _truth(pipeline, seed, views, times, family)
        given, group = cross_mask(views, times), f"{views} x {times}, {family.name}"
        for name, frames in trivial_baselines(truth[0], truth[:, 0]).items():
            yield group, name, lambda frames=frames: frames, given, truth
        for windows in WINDOWS:
            yield group, f"windows: {windows}", _completed(pipeline, truth, given, windows=windows), given, truth


def given_rows(pipeline: GridPipeline, seed: int) -> Iterator[Row]:
    """One grid from other given frames than the cross."""
    truth = _truth(pipeline, seed)
    for name, given in given_masks(*truth.shape[:2], seed).items():
        yield name, "mean of the nearest given frames", lambda given=given: _nearest_mean(truth, given), given, truth
        yield name, "sampled", _completed(pipeline, truth, given), given, truth


def given_masks(views: int, times: int, seed: int) -> dict[str, Tensor]:
    """Masks ``(V, T)`` by name; the random one is drawn by the seed."""
    cross = cross_mask(views, times)
    fixed_view, freeze_time, some = (torch.zeros_like(cross) for _ in range(3))
    fixed_view[0], freeze_time[:, 0] = True, True
    order = torch.randperm(views * times, generator=torch.Generator().manual_seed(seed))
    some.view(-1)[order[:COUNT_OF_RANDOM]] = True
    return {
        "both videos": cross,
        "fixed-view video alone": fixed_view,
        "freeze-time video alone": freeze_time,
        f"{COUNT_OF_RANDOM} random frames": some,
    }


STUDIES = {"steps": steps_rows, "grids": grid_rows, "given": given_rows}


def _truth(
    pipeline: GridPipeline, seed: int, views: int | None = None, times: int | None = None, family: SceneFamily = EASY
) -> Tensor:
    config = pipeline.model.config
    return held_out_grid(seed, views or config.views, times or config.times, config.height, config.width, family)


def _completed(pipeline: GridPipeline, truth: Tensor, given: Tensor, **options) -> Callable[[], Tensor]:
    return lambda: pipeline.complete(truth, given, progress=False, **options).frames


def _nearest_mean(truth: Tensor, given: Tensor) -> Tensor:
    """Mean of the nearest given frames of the same view and of the same timestep, where there are such; else grey."""
    sources = nearest_sources(truth[None], given[None])
    count = (sources.has_same_view.float() + sources.has_same_time)[0, ..., None, None, None]
    return torch.where(count > 0, (sources.same_view + sources.same_time)[0] / count.clamp_min(1), 0.5)


def _measured(row: Row) -> dict[str, float]:
    *_, predict, given, truth = row
    started = time.process_time()
    frames = predict()
    seconds = time.process_time() - started
    return measure(frames, truth, given) | {"cpu_seconds": round(seconds, 3)}


def summary(scenes: dict[int, dict[str, dict[str, dict[str, float]]]]) -> dict:
    """Means and standard deviations over scenes, by group, row and metric."""
    groups = {group: {seed: scene[group] for seed, scene in scenes.items()} for group in next(iter(scenes.values()))}
    return {
        name: {group: over_scenes(rows, statistic) for group, rows in groups.items()}
        for name, statistic in (("mean", fmean), ("deviation", deviation))
    }


def markdown(mean: dict) -> str:
    """One table for each group."""
    heads = ("PSNR dB", "PSNR dB, moving pixels", "SSIM", "gradient energy", "CPU seconds")
    tables = (
        metric_table((group or "prediction", *heads), rows, digits=(2, 2, 3, 3, 1)) for group, rows in mean.items()
    )
    return "\n\n".join(tables)


def metric_table(heads: Sequence[str], rows: dict[str, dict[str, float]], digits: Sequence[int]) -> str:
    """Markdown: a line for each row's name and metrics, these with so many decimal places."""
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, values in rows.items():
        cells = (f"{value:.{places}f}" for value, places in zip(values.values(), digits, strict=True))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Namespace) -> None:
    pipeline = GridPipeline.from_pretrained(arguments.model)
    scenes: dict[int, dict] = {}
    settings = {"study": arguments.study, "model": arguments.model, "config": pipeline.model.config.to_dict()}
    settings |= {"metrics": [*METRICS, "cpu_seconds"], "threads": torch.get_num_threads()}
    for seed in range(arguments.first, arguments.first + arguments.scenes):
        found: dict[str, dict] = {}
        for row in STUDIES[arguments.study](pipeline, seed):
            found.setdefault(row[0], {})[row[1]] = _measured(row)
        scenes[seed] = found
        result = {"settings": settings, **summary(scenes), "scenes": scenes, "versions": versions()}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{len(scenes)} scenes\n\n{markdown(result['mean'])}\n", flush=True)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--first", type=int, default=HELD_OUT_SEED, help="seed of the first scene")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--json", type=Path, required=True)
    main(parser.parse_args())
