"""Frechet distances and KID of predictions over the lines of grids, each beside the clean-vs-clean floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from .distribution import frechet_distance, kernel_distance
from .extractors import FeatureExtractor
from .grid_lines import LINES

CLEAN = "truth"
_LEAST_DEVIATION = 1e-6


@dataclass
class LineFeatures:
    """Features of one extractor, collected scene by scene: ``found[lines][name]`` lists ``(clips, D)`` of each scene.

    Args:
        extractor: of features.
    """

    extractor: FeatureExtractor
    found: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)

    def add(self, name: str, grid: Tensor) -> None:
        """Add the grid ``(V, T, 3, H, W)`` of the next scene under ``name``; :data:`CLEAN` is the truth."""
        for lines, split in LINES.items():
            clips = split(grid)
            if min(len(clip) for clip in clips) >= 3:
                self.found.setdefault(lines, {}).setdefault(name, []).append(self.extractor.features(clips))

    def rows(self) -> list[dict]:
        """One result per kind of lines and name; none for lines with fewer than two clips in a half of the scenes."""
        rows = []
        for lines, by_name in self.found.items():
            clean = by_name[CLEAN]
            names = [name for name in by_name if name != CLEAN]
            if len(clean) // 2 * len(clean[0]) < 2:
                continue
            rows += [self._row(lines, name, clean, by_name[name]) for name in names]
        return rows

    def _row(self, lines: str, name: str, clean: Sequence[Tensor], tested: Sequence[Tensor]) -> dict:
        """Distance of one half's predictions from the other half's truth, mean of both ways round, beside the floor."""
        middle = len(clean) // 2
        halves = (slice(0, middle), slice(middle, None))
        values: dict[str, list[float]] = {"frechet": [], "frechet_floor": [], "kid": [], "kid_floor": []}
        for reference, other in (halves, halves[::-1]):
            true, floor, found = (torch.cat(list(part)) for part in (clean[reference], clean[other], tested[other]))
            true, floor, found = self._scaled(true, floor, found)
            values["frechet"].append(frechet_distance(true, found))
            values["frechet_floor"].append(frechet_distance(true, floor))
            values["kid"].append(kernel_distance(true, found))
            values["kid_floor"].append(kernel_distance(true, floor))
        extractor = self.extractor
        means = {key: fmean(numbers) for key, numbers in values.items()}
        floor = means["frechet_floor"]
        return {
            "label": extractor.label(extractor.frechet_metric(lines), f"Frechet distance, {lines}"),
            "kid_label": extractor.label("", f"KID, {lines}"),
            "extractor": extractor.spec.name,
            "lines": lines,
            "prediction": name,
            **means,
            "factor": means["frechet"] / floor if floor > 0 else math.nan,
            "clips": [sum(map(len, clean[half])) for half in halves],
        }

    def _scaled(self, true: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        if not self.extractor.standardised:
            return true, *others
        mean, deviation = true.mean(0), true.std(0).clamp_min(_LEAST_DEVIATION)
        return tuple((features - mean) / deviation for features in (true, *others))
