"""The metrics of one grid that need its true cameras, depth and motion, along views and along time apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from torch import Tensor

from ..data import GridRender
from .correspondence import AXES, correspondence
from .epipolar import epipolar_errors, match_pairs, track_errors
from .reprojection import reprojection_error

# Errors: the larger, the worse. The first two need no features.
WARP_ERRORS = ("reprojection_view", "warp_time")
FEATURE_ERRORS = ("epipolar_view", "track_view", "track_time")
GEOMETRY_ERRORS = (*WARP_ERRORS, *FEATURE_ERRORS)
MATCH_COUNTS = ("matches_view", "matches_time")


class GridGeometry:
    """True correspondences of one scene, against which any prediction of its frames is measured.

    Args:
        render: the true grid.
        given: ``(V, T)`` bool, frames that were input; pairs of two given frames are not measured.
    """

    def __init__(self, render: GridRender, given: Tensor | None = None):
        self.render = render
        self.pairs = {axis: correspondence(render, axis, given) for axis in AXES}

    def measure(self, frames: Tensor, *, features: bool = True) -> dict[str, float]:
        """Errors of ``frames`` ``(V, T, 3, H, W)`` in [0, 1].

        Args:
            features: also match features.

        Returns:
            ``reprojection_view``, ``warp_time``: mean squared colour errors. ``epipolar_view``, ``track_view``,
            ``track_time``: medians in pixels over the matches of the grid, NaN without any. ``matches_*``: matches per
            pair of frames.
        """
        view, time = self.pairs["view"], self.pairs["time"]
        found = {
            "reprojection_view": reprojection_error(frames, view),
            "warp_time": reprojection_error(frames, time),
        }
        if not features:
            return found
        matches = {axis: match_pairs(frames, pairs) for axis, pairs in self.pairs.items()}
        found["epipolar_view"] = _median(epipolar_errors(matches["view"], self.render, view))
        found["track_view"] = _median(track_errors(matches["view"], view))
        found["track_time"] = _median(track_errors(matches["time"], time))
        for axis in AXES:
            found[f"matches_{axis}"] = fmean(len(match.first) for match in matches[axis])
        return found


def mean_of(scenes: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over scenes, of each metric over the scenes where it is a number; NaN where there is none."""
    result = {}
    for name in scenes[0]:
        values = [scene[name] for scene in scenes if not math.isnan(scene[name])]
        result[name] = fmean(values) if values else math.nan
    return result


def _median(errors: Tensor) -> float:
    return float(errors.median()) if errors.numel() else math.nan
