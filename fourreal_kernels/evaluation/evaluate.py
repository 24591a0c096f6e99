"""Evaluation on held-out scenes: the model's samples and one-step answers beside the trivial baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev

from torch import Tensor

from ..data import caption, sample_scene
from ..data.optional import import_optional
from ..model.conditioning import cross_mask
from ..model.pipeline import DEFAULT_STEPS, GridPipeline
from .baselines import trivial_baselines
from .extractors import Extractor
from .harness import GridHarness
from .held_out import check_held_out, held_out_render
from .metrics import gradient_energy_ratio, moving_pixels, psnr, ssim

ALIGNED = "aligned given frames, mean, no learned weights"
PREDICTIONS = ("one step", "sampled")
METRICS = ("psnr", "psnr_moving", "ssim", "gradient_energy_moving")
# What features are matched in and what extractors see; the first is a trivial prediction to compare with.
DETAILED = ("mean of both", *PREDICTIONS)

def evaluate(
    pipeline: GridPipeline,
    seeds: Sequence[int],
    *,
    steps: int = DEFAULT_STEPS,
    sampler: str = "euler",
    family: str = "easy",
    geometry: bool = False,
    extractors: Sequence[Extractor] = (),
    progress: bool = True,
) -> dict:
    """Measure the generated frames (conditioning frames excluded) of held-out scenes.

    Args:
        seeds: held-out seeds, 900000 and above.
        steps, sampler: what is measured as "sampled"; "one step" is measured beside it.
        family: scene family.
        geometry: also measure consistency with the true cameras, depth and motion.
        extractors: loaded extractors, whose distances and scores are measured for :data:`DETAILED`.

    Returns:
        ``{"settings": ..., "mean": {prediction: {metric: mean over scenes}}, "deviation": {prediction: {metric:
        standard deviation over scenes}}, "scenes": {seed: {prediction: ...}}}`` and the results of
        :class:`GridHarness`; PSNR in dB, gradient energy as a ratio to the truth on moving pixels.

    Raises:
        ValueError: no seeds, or one that is not held out.
    """
    if not seeds:
        raise ValueError("seeds: got none, expected at least one")
    for seed in seeds:
        check_held_out("seeds", seed)
    config = pipeline.model.config
    size = (config.views, config.times, config.height, config.width)
    harness = GridHarness(extractors, geometry=geometry, detailed=DETAILED)
    scenes = {}
    for seed in _with_progress(seeds) if progress else seeds:
        render = held_out_render(seed, *size, family)
        predictions = predict(pipeline, render.frames, steps=steps, sampler=sampler)
        scenes[seed] = {name: measure(predicted, render.frames) for name, predicted in predictions.items()}
        words = caption(sample_scene(seed, config.views, config.times, family)) if harness.needs_caption else ""
        harness.add(seed, render, predictions, words)
    settings = {"steps": steps, "sampler": sampler, "family": family, "seeds": list(seeds)}
    return {
        "settings": settings,
        "mean": over_scenes(scenes, fmean),
        "deviation": over_scenes(scenes, deviation),
        "scenes": scenes,
        **harness.result(),
    }


def predict(pipeline: GridPipeline, truth: Tensor, *, steps: int, sampler: str) -> dict[str, Tensor]:
    """Every prediction of a grid ``(V, T, 3, H, W)`` from its first view and timestep, by name."""
    predictions = trivial_baselines(truth[0], truth[:, 0])
    if pipeline.model.config.matching:
        predictions[ALIGNED] = aligned_mean(pipeline, truth)
    for name, count in zip(PREDICTIONS, (1, steps), strict=True):
        video = pipeline(truth[0], truth[:, 0], steps=count, seed=0, sampler=sampler, progress=False)
        predictions[name] = video.frames
    return predictions


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def over_scenes(scenes: dict, statistic: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    """A statistic of every metric by prediction; ``scenes`` has the metrics by scene and prediction."""
    first = next(iter(scenes.values()))
    return {
        name: {metric: statistic([scene[name][metric] for scene in scenes.values()]) for metric in metrics}
        for name, metrics in first.items()
    }


def aligned_mean(pipeline: GridPipeline, truth: Tensor) -> Tensor:
    """What the warp head starts from: the mean of the matched and displaced given frames, ``(V, T, 3, H, W)``."""
    clean = (truth * 2 - 1)[None].to(pipeline.device)
    given = cross_mask(*truth.shape[:2], device=clean.device)[None]
    alignment = pipeline.model.prepare(clean, given).alignment
    return ((alignment.same_view + alignment.same_time)[0].cpu() / 4 + 0.5).clamp(0, 1)


def _with_progress(seeds: Sequence[int]) -> Iterable[int]:
    tqdm = import_optional("tqdm", "progress=True").tqdm
    return tqdm(seeds, desc="evaluate", unit="scene")


def measure(predicted: Tensor, truth: Tensor, given: Tensor | None = None) -> dict[str, float]:
    """All metrics of one grid ``(V, T, 3, H, W)`` over the frames that are not ``given``, by default the cross."""
    generated = ~(cross_mask(*truth.shape[:2]) if given is None else given)
    moving = moving_pixels(truth)[generated]
    predicted, truth = predicted[generated], truth[generated]
    values = (
        psnr(predicted, truth),
        psnr(predicted, truth, moving),
        ssim(predicted, truth),
        gradient_energy_ratio(predicted, truth, moving),
    )
    return dict(zip(METRICS, values, strict=True))


def table(result: dict) -> str:
    """The means as a Markdown table; the last rows are margins over the best trivial baseline of each metric."""
    lines = [
        "| prediction | PSNR dB | PSNR dB, moving pixels | SSIM | gradient energy, moving pixels |",
        "|---|---|---|---|---|",
    ]
    mean = result["mean"]
    for name, values in mean.items():
        lines.append(f"| {name} | " + " | ".join(_number(metric, values[metric]) for metric in METRICS) + " |")
    baselines = [values for name, values in mean.items() if name not in (ALIGNED, *PREDICTIONS)]
    for name in PREDICTIONS:
        margins = [mean[name][m] - max(values[m] for values in baselines) for m in METRICS[:3]]
        lines.append(
            f"| {name}, over the best trivial baseline of each metric | {margins[0]:+.2f} | {margins[1]:+.2f} "
            f"| {margins[2]:+.3f} | |"
        )
    return "\n".join(lines)


def _number(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric.startswith("psnr") else f"{value:.3f}"

