"""How the cost of an operator grows: seconds against FLOPs over a sweep of sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .targets import our_provider

SUITE = "growth"


@dataclass(frozen=True)
class Line:
    """Least squares of seconds = offset + FLOPs / rate, with R^2."""

    offset: float
    seconds_per_flop: float
    r_squared: float


def fit_line(flops: list[float], seconds: list[float]) -> Line:
    """Fit a line through at least two points of different FLOPs."""
    x, y = np.asarray(flops), np.asarray(seconds)
    slope, offset = np.polyfit(x, y, 1)
    residual = ((y - offset - slope * x) ** 2).sum()
    spread = ((y - y.mean()) ** 2).sum()
    return Line(float(offset), float(slope), float(1 - residual / spread) if spread > 0 else 1.0)


def sweeps(record: dict[str, Any]) -> Iterator[tuple[str, list[float], list[float]]]:
    """Axes, FLOPs and median seconds of ours, per axes of the growth suite."""
    cases = [case for case in record["cases"] if case["suite"] == SUITE and our_provider(case)]
    for axes in dict.fromkeys(case["axes"] for case in cases):
        of_axes = sorted((case["flops"], our_provider(case)["p50"]) for case in cases if case["axes"] == axes)
        yield axes, [flops for flops, _ in of_axes], [seconds for _, seconds in of_axes]


def sweep_lines(record: dict[str, Any]) -> list[str]:
    """One sentence per sweep."""
    lines = []
    for axes, flops, seconds in sweeps(record):
        if len(set(flops)) > 1:
            line = fit_line(flops, seconds)
            rate = 1e-9 / line.seconds_per_flop
            lines.append(f"{axes}: {len(flops)} sizes, {rate:.0f} GFLOP/s along the line, R^2 = {line.r_squared:.4f}")
    return lines
