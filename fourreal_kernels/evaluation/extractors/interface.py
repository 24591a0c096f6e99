"""One interface of everything that turns frames into features or scores, and the names its results may have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .weights import GIVEN, UNCHECKED, ExtractorSpec, Weights


class Extractor(ABC):
    """A loaded extractor.

    Attributes:
        spec: what it is.
        weights: what it was loaded from.
        differs: why it is not the published model although it has its layout, or None.
    """

    spec: ExtractorSpec

    def __init__(self, weights: Weights, differs: str | None = None):
        self.weights = weights
        replaced = self.spec.sha256 is not None and weights.status == GIVEN
        self.differs = differs or ("its sha256 is not the published one" if replaced else None)

    def label(self, metric: str, text: str) -> str:
        """The name under which a result is printed; always with the extractor.

        The official name ``metric`` is used only for a model that is not known to differ from the published one.

        Args:
            metric: an official name, one of ``spec.metrics``, or "" where there is none.
            text: what was measured, in words that tell the results of an extractor apart by themselves.
        """
        if not metric:
            return f"{text} [{self.spec.name}]"
        if metric not in self.spec.metrics:
            raise ValueError(f"metric: got {metric!r}, expected one of {self.spec.metrics} of {self.spec.name}")
        if self.differs:
            return f"{text} [other weights in the layout of {self.spec.name}: {self.differs}]"
        unchecked = ", weights not checked" if self.weights.status == UNCHECKED else ""
        return f"{metric}, {text} [{self.spec.name}{unchecked}]"

    def to_dict(self) -> dict[str, Any]:
        """What a result is stored with."""
        spec = self.spec
        return {
            "source": spec.source,
            "licence": spec.licence,
            "preprocessing": spec.preprocessing,
            "dimension": spec.dimension,
            "published_sha256": spec.sha256,
            "weights": self.weights.to_dict(),
            "official": bool(spec.metrics) and self.differs is None,
            "differs": self.differs,
        }


class FeatureExtractor(Extractor):
    """An extractor of one feature vector per clip, for Frechet distances and KID."""

    standardised = False

    @abstractmethod
    def features(self, clips: Sequence[Tensor]) -> Tensor:
        """Features ``(N, D)`` float32 of N clips ``(F, 3, H, W)`` in [0, 1]."""

    def frechet_metric(self, lines: str) -> str:
        """The official name of its Frechet distance over these lines, or ""."""
        return ""


class ScoreExtractor(Extractor):
    """An extractor of scores of a whole grid."""

    @abstractmethod
    def scores(self, grid: Tensor, caption: str) -> dict[str, float]:
        """Scores of a grid ``(V, T, 3, H, W)`` in [0, 1] by the labels under which they are printed."""
