"""Corrupted copies of held-out scenes, measured for ``fourreal evaluate --corruptions``."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import HELD_OUT_SEED
from ..evaluation.corruption_table import corruption_table
from ..evaluation.extractors import Extractor, FeatureExtractor
from ..evaluation.held_out import held_out_render
from .errors import UserError

_LEAST_SCENES = 4
_GRID = {"views": 8, "times": 8, "height": 64, "width": 64}


def measure_corruptions(scenes: int, family: str, extractors: Sequence[Extractor]) -> dict:
    """The factors of all metrics for the first held-out scenes.

    Raises:
        UserError: fewer than four scenes, or an extractor of scores, which has no clean-vs-clean floor.
    """
    if scenes < _LEAST_SCENES:
        raise UserError(f"argument --scenes: got {scenes}, expected at least {_LEAST_SCENES} with --corruptions")
    for extractor in extractors:
        if not isinstance(extractor, FeatureExtractor):
            raise UserError(f"argument --extractor: {extractor.spec.name} gives no features; not with --corruptions")
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + scenes)
    result = corruption_table([held_out_render(seed, **_GRID, family=family) for seed in seeds], extractors)
    result["settings"] = {"seeds": list(seeds), "family": family, **_GRID}
    result["extractors"] = {extractor.spec.name: extractor.to_dict() for extractor in extractors}
    return result
