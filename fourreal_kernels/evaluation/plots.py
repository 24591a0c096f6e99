"""The plots of an evaluation, by file name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..charts import COLORS, Chart, Series
from .corruption_table import FLAG_FACTOR, GEOMETRY_NAMES
from .frechet import CLEAN
from .matrix_chart import matrix_chart

if TYPE_CHECKING:
    from PIL.Image import Image


def scene_plot(result: dict) -> dict[str, Image]:
    """PSNR of every prediction over the scenes."""
    scenes = result["scenes"]
    chart = Chart("PSNR of the generated frames by scene", "held-out scene, seed - 900000", "dB")
    for color, name in zip(COLORS, next(iter(scenes.values())), strict=False):
        points = [(int(seed) - 900_000, scene[name]["psnr"]) for seed, scene in scenes.items()]
        chart.series.append(Series(name, points, color=color))
    return {"scenes.png": chart.draw()}


def consistency_plot(result: dict) -> dict[str, Image]:
    """Errors of geometry and Frechet distances of predictions, over those of the truth."""
    rows: dict[str, dict[str, float]] = {}
    errors = result.get("geometry", {}).get("mean", {})
    for metric, text in GEOMETRY_NAMES.items():
        clean = errors.get(CLEAN, {}).get(metric, 0.0)
        if clean > 0:
            found = {name: values.get(metric, math.nan) / clean for name, values in errors.items() if name != CLEAN}
            rows[text] = found
    for row in result.get("distances", ()):
        rows.setdefault(row["label"], {})[row["prediction"]] = row["factor"]
    if not rows:
        return {}
    columns = list(dict.fromkeys(name for found in rows.values() for name in found))
    title = f"Errors over those of the truth (framed: at least {FLAG_FACTOR:g}; grey: not measured)"
    return {"consistency.png": matrix_chart(title, rows, columns, FLAG_FACTOR)}


def corruption_plot(result: dict) -> dict[str, Image]:
    """Factors of every metric for every corruption."""
    title = f"Corrupted over clean; framed: at least {FLAG_FACTOR:g}"
    return {"corruptions.png": matrix_chart(title, result["factors"], list(result["flagged"]), FLAG_FACTOR)}
