"""Which metric notices which corruption: factors of corrupted over clean grids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..data import GridRender
from .corruptions import CORRUPTIONS
from .extractors import FeatureExtractor
from .frechet import CLEAN, LineFeatures
from .geometry_metrics import GEOMETRY_ERRORS, GridGeometry, mean_of

FLAG_FACTOR = 3.0
GEOMETRY_NAMES = {
    "reprojection_view": "reprojection error along views (true depth)",
    "warp_time": "warp error along time (true scene flow)",
    "epipolar_view": "epipolar error between views",
    "track_view": "match error along views",
    "track_time": "match error along time",
}


def corruption_table(
    renders: Sequence[GridRender], extractors: Sequence[FeatureExtractor], *, seed: int = 0
) -> dict:
    """Measure corrupted copies of true grids.

    Args:
        renders: at least four scenes; the Frechet distances take one half of them as reference.
        extractors: of features.
        seed: of the corruptions.

    Returns:
        ``{"factors": {metric: {corruption: error over the clean error}}, "geometry": {"clean" or corruption: {metric:
        mean over scenes}}, "distances": rows of :class:`LineFeatures`, "flagged": {corruption: metrics with a factor of
        at least 3}, ...}``. Clean errors are those of the same scenes, clean distances those between two halves.

    Raises:
        ValueError: fewer than four scenes.
    """
    if len(renders) < 4:
        raise ValueError(f"renders: got {len(renders)} scenes, expected at least 4")
    clean = [render.frames for render in renders]
    grids = {name: _corrupted(name, clean, seed) for name in CORRUPTIONS}
    geometry = [GridGeometry(render) for render in renders]
    errors = {
        name: mean_of([truth.measure(grid) for truth, grid in zip(geometry, found, strict=True)])
        for name, found in {"clean": clean, **grids}.items()
    }
    factors = {
        GEOMETRY_NAMES[metric]: {name: errors[name][metric] / errors["clean"][metric] for name in grids}
        for metric in GEOMETRY_ERRORS
    }
    distances = []
    for extractor in extractors:
        features = LineFeatures(extractor)
        for name, found in {CLEAN: clean, **grids}.items():
            for grid in found:
                features.add(name, grid)
        distances += features.rows()
    for row in distances:
        factors.setdefault(row["label"], {})[row["prediction"]] = row["factor"]
    return {
        "factors": factors,
        "flagged": {name: _flagged(factors, name) for name in grids},
        "geometry": errors,
        "distances": distances,
        "flag_factor": FLAG_FACTOR,
        "corruption_seed": seed,
    }


def _corrupted(name: str, clean: list[Tensor], seed: int) -> list[Tensor]:
    """Corrupted grids. The halves are corrupted apart, so that no frame moves into the half it is compared with."""
    generator = torch.Generator().manual_seed(seed)
    middle = len(clean) // 2
    return [grid for half in (clean[:middle], clean[middle:]) for grid in CORRUPTIONS[name](half, generator)]


def _flagged(factors: dict[str, dict[str, float]], name: str) -> list[str]:
    return [metric for metric, found in factors.items() if found[name] >= FLAG_FACTOR]


def corruption_markdown(result: dict) -> str:
    """The factors as a Markdown table; those of at least 3 are bold."""
    names = list(result["flagged"])
    lines = ["| metric, corrupted / clean | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for metric, found in result["factors"].items():
        lines.append(f"| {metric} | " + " | ".join(_cell(found[name]) for name in names) + " |")
    counts = (f"{len(result['flagged'][name])} of {len(result['factors'])}" for name in names)
    lines.append(f"| metrics with a factor of at least {FLAG_FACTOR:g} | " + " | ".join(counts) + " |")
    return "\n".join(lines)


def _cell(factor: float) -> str:
    if math.isnan(factor):
        return "no matches"
    text = f"{factor:.2f}" if factor < 10 else f"{factor:.0f}"
    return f"**{text}**" if factor >= FLAG_FACTOR else text
