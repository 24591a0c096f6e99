"""Every trained model on the same held-out scenes, beside the trivial predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from torch import Tensor
from tqdm import tqdm

from fourreal_kernels.data import HELD_OUT_SEED
from fourreal_kernels.evaluation.baselines import trivial_baselines
from fourreal_kernels.evaluation.evaluate import deviation, measure
from fourreal_kernels.evaluation.geometry_metrics import WARP_ERRORS, GridGeometry
from fourreal_kernels.evaluation.held_out import held_out_render
from fourreal_kernels.evaluation.reprojection import decibels
from fourreal_kernels.model import GridPipeline
from fourreal_kernels.model.conditioning import cross_mask

METRICS = ("psnr", "psnr_moving", "ssim", "gradient_energy_moving", *WARP_ERRORS)
TRUTH = "truth"
Scenes = dict[str, list[dict[str, float]]]


def measure_scenes(models: Mapping[str, GridPipeline], scenes: int, steps: int) -> Scenes:
    """Metrics by prediction, a list over held-out scenes; a model's names end with its number of steps."""
    config = next(iter(models.values())).model.config
    found: Scenes = {}
    for seed in tqdm(range(HELD_OUT_SEED, HELD_OUT_SEED + scenes), unit="scene", desc="evaluate"):
        render = held_out_render(seed, config.views, config.times, config.height, config.width)
        geometry = GridGeometry(render, cross_mask(config.views, config.times))
        for name, grid in _predictions(models, render.frames, steps).items():
            values = measure(grid, render.frames) | geometry.measure(grid, features=False)
            found.setdefault(name, []).append(values)
    return found


def _predictions(models: Mapping[str, GridPipeline], truth: Tensor, steps: int) -> dict[str, Tensor]:
    predictions = {TRUTH: truth, **trivial_baselines(truth[0], truth[:, 0])}
    for name, pipeline in models.items():
        for count in dict.fromkeys((1, steps)):
            video = pipeline(truth[0], truth[:, 0], steps=count, seed=0, progress=False)
            predictions[f"{name}, {count} steps"] = video.frames
    return predictions


def over_scenes(values: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over scenes; warped errors as PSNR of the mean error, in dB."""
    means = {metric: fmean(scene[metric] for scene in values) for metric in METRICS}
    return means | {metric: decibels(means[metric]) for metric in WARP_ERRORS}


def over_seeds(runs: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over training runs that differ in their seed."""
    return {
        metric: {
            "mean": fmean(run[metric] for run in runs),
            "deviation": deviation([run[metric] for run in runs]),
        }
        for metric in runs[0]
    }
