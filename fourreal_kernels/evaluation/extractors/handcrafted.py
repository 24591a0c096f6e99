"""The built-in extractor: handcrafted statistics, no weights, no official name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..clip_statistics import STATISTICS, clip_statistics
from .interface import FeatureExtractor
from .weights import UNCHECKED, ExtractorSpec, Weights


class Handcrafted(FeatureExtractor):
    """Colour and motion statistics of clips; standardised by the clean clips they are compared with."""

    spec = ExtractorSpec(
        name="handcrafted motion and colour statistics",
        metrics=(),
        source="this repository",
        path=None,
        sha256=None,
        preprocessing="none; every statistic less its mean over the clean clips, divided by its deviation there",
        dimension=len(STATISTICS),
        licence="that of this repository",
    )
    standardised = True

    def __init__(self):
        super().__init__(Weights(None, None, UNCHECKED))

    def features(self, clips: Sequence[Tensor]) -> Tensor:
        return torch.stack([clip_statistics(clip) for clip in clips])
