"""What is measured of grids beyond their pixels: geometry, distributions and scores, beside those of the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..data import GridRender
from ..model.conditioning import cross_mask
from .extractors import Extractor, FeatureExtractor, ScoreExtractor
from .frechet import CLEAN, LineFeatures
from .geometry_metrics import GridGeometry, mean_of


class GridHarness:
    """Collects the measurements of predictions scene by scene.

    Args:
        extractors: loaded extractors of features or scores.
        geometry: measure consistency with the true cameras, depth and motion.
        detailed: names of predictions whose features are matched and that extractors see; the others only get the
            errors of warped colours, which cost little.
    """

    def __init__(self, extractors: Sequence[Extractor], *, geometry: bool, detailed: Sequence[str]):
        self._extractors, self._geometry, self._detailed = list(extractors), geometry, {CLEAN, *detailed}
        self._features = [LineFeatures(item) for item in extractors if isinstance(item, FeatureExtractor)]
        self._scorers = [item for item in extractors if isinstance(item, ScoreExtractor)]
        self._errors: dict[str, dict[int, dict[str, float]]] = {}
        self._scores: dict[str, dict[int, dict[str, float]]] = {}

    @property
    def needs_caption(self) -> bool:
        return bool(self._scorers)

    def add(self, seed: int, render: GridRender, predictions: Mapping[str, Tensor], caption: str = "") -> None:
        """Measure one scene: its true grid, and predictions ``(V, T, 3, H, W)`` from its fixed cross."""
        grids = {CLEAN: render.frames, **predictions}
        truth = GridGeometry(render, cross_mask(*render.frames.shape[:2])) if self._geometry else None
        for name, grid in grids.items():
            detailed = name in self._detailed
            if truth is not None:
                self._errors.setdefault(name, {})[seed] = truth.measure(grid, features=detailed)
            if not detailed:
                continue
            for features in self._features:
                features.add(name, grid)
            scores = {label: value for item in self._scorers for label, value in item.scores(grid, caption).items()}
            if scores:
                self._scores.setdefault(name, {})[seed] = scores

    def result(self) -> dict:
        """What was asked for: ``geometry`` and ``scores`` (means and by scene), ``distances``, ``extractors``."""
        result: dict = {}
        for key, found in (("geometry", self._errors), ("scores", self._scores)):
            if found:
                result[key] = {
                    "mean": {name: mean_of(list(scenes.values())) for name, scenes in found.items()},
                    "scenes": found,
                }
        if self._features:
            result["distances"] = [row for features in self._features for row in features.rows()]
        if self._extractors:
            result["extractors"] = {item.spec.name: item.to_dict() for item in self._extractors}
        return result
