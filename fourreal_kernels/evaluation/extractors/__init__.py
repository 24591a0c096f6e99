"""Extractors of features and scores: a built-in one, and official ones that run on the user's weights."""

from __future__ import annotations

from pathlib import Path

import torch

from .clip import Clip
from .dust3r import Dust3r
from .handcrafted import Handcrafted
from .i3d import Kinetics400I3D, TorchScriptI3D
from .interface import Extractor, FeatureExtractor, ScoreExtractor
from .met3r import Met3r
from .videoscore import VideoScore
from .weights import ExtractorSpec, WeightsError, find_weights, weights_folder

# By the names under which the command line asks for them.
OFFICIAL = {
    "i3d-torchscript": TorchScriptI3D,
    "i3d-kinetics400": Kinetics400I3D,
    "clip": Clip,
    "videoscore": VideoScore,
    "dust3r": Dust3r,
    "met3r": Met3r,
}


def load_extractor(
    name: str, folder: Path | None = None, *, sha256: str | None = None, device: str | torch.device = "cpu"
) -> Extractor:
    """Load an official extractor from the user's weights.

    Args:
        name: a key of :data:`OFFICIAL`.
        folder: of weights; None: :func:`weights_folder`.
        sha256: expected of the weights instead of the published checksum.

    Raises:
        ValueError: unknown name.
        WeightsError: weights or a package are absent (the message says what to get and where it goes), the checksum is
            another, or the file does not have the layout of the model.
    """
    if name not in OFFICIAL:
        raise ValueError(f"name: got {name!r}, expected one of {sorted(OFFICIAL)}")
    kind = OFFICIAL[name]
    weights = find_weights(kind.spec, weights_folder() if folder is None else folder, sha256)
    return kind.load(weights, torch.device(device))


__all__ = [
    "OFFICIAL",
    "Extractor",
    "ExtractorSpec",
    "FeatureExtractor",
    "Handcrafted",
    "ScoreExtractor",
    "WeightsError",
    "find_weights",
    "load_extractor",
    "weights_folder",
]
