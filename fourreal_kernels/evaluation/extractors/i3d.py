"""FVD: I3D logits of clips, from the TorchScript file of StyleGAN-V or the converted Kinetics-400 weights."""

from __future__ import annotations

import math
import pickle
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .i3d_network import CLASSES, I3D
from .interface import FeatureExtractor
from .weights import ExtractorSpec, Weights, WeightsError

LEAST_FRAMES = 10
_SIDE = 224
_BATCH = 8
_METRICS = {"time lines": "FVD-F", "view lines": "FVD-V", "diagonals": "FVD-Diag", "whole grid": "FV4D"}
_PREPROCESSING = (
    "clips shorter than 10 frames continued backwards from their end (0 1 .. 7 6 5) [ours]; bilinear resize of the "
    "shorter side to 224, centre crop, values to [-1, 1]; 400 logits"
)


def mirrored(clip: Tensor, least: int = LEAST_FRAMES) -> Tensor:
    """A clip ``(F, ...)`` of at least ``least`` frames: played forth and back until it is long enough."""
    if len(clip) >= least:
        return clip
    period = max(2 * len(clip) - 2, 1)
    place = torch.arange(least) % period
    return clip[torch.where(place < len(clip), place, period - place)]


def preprocess(clip: Tensor) -> Tensor:
    """``(3, F, 224, 224)`` in [-1, 1] from a clip ``(F, 3, H, W)`` in [0, 1]."""
    height, width = clip.shape[-2:]
    scale = _SIDE / min(height, width)
    size = [max(_SIDE, math.ceil(side * scale)) for side in (height, width)]
    clip = F.interpolate(mirrored(clip), size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - _SIDE) // 2, (size[1] - _SIDE) // 2
    return (clip[..., top : top + _SIDE, left : left + _SIDE] * 2 - 1).transpose(0, 1)


class _I3DFeatures(FeatureExtractor):
    def __init__(self, weights: Weights, network: torch.nn.Module, device: torch.device):
        self.network, self._device = network.eval().to(device), device
        dimension = self._run(torch.zeros(1, 3, LEAST_FRAMES, _SIDE, _SIDE, device=device)).shape[1]
        differs = None if dimension == CLASSES else f"{dimension} outputs, the published network has {CLASSES}"
        super().__init__(weights, differs)

    @abstractmethod
    def _run(self, batch: Tensor) -> Tensor:
        """Logits ``(B, 400)`` of ``(B, 3, F, 224, 224)``."""

    def frechet_metric(self, lines: str) -> str:
        return _METRICS[lines]

    @torch.no_grad()
    def features(self, clips: Sequence[Tensor]) -> Tensor:
        found = []
        for start in range(0, len(clips), _BATCH):
            batch = torch.stack([preprocess(clip) for clip in clips[start : start + _BATCH]]).to(self._device)
            found.append(self._run(batch).float().cpu())
        return torch.cat(found)


def _spec(name: str, source: str, path: str, sha256: str | None) -> ExtractorSpec:
    return ExtractorSpec(
        name=name,
        metrics=tuple(_METRICS.values()),
        source=source,
        path=path,
        sha256=sha256,
        preprocessing=_PREPROCESSING,
        dimension=CLASSES,
        licence="not stated with the file; the original Kinetics weights are Apache-2.0",
    )


class TorchScriptI3D(_I3DFeatures):
    """The TorchScript file that StyleGAN-V and most later papers compute FVD with."""

    spec = _spec(
        name="I3D torchscript",
        source="https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt (also flateon/FVD-I3D-torchscript on the "
        "Hugging Face hub)",
        path="i3d_torchscript.pt",
        sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    )

    @classmethod
    def load(cls, weights: Weights, device: torch.device) -> TorchScriptI3D:
        try:
            network = torch.jit.load(weights.path, map_location=device)
        except RuntimeError as error:
            raise WeightsError(f"{cls.spec.name}: {weights.path} is not a TorchScript file ({_line(error)})") from error
        try:
            return cls(weights, network, device)
        except RuntimeError as error:
            raise WeightsError(f"{cls.spec.name}: {weights.path} cannot be called as I3D ({_line(error)})") from error

    def _run(self, batch: Tensor) -> Tensor:
        return self.network(batch, rescale=False, resize=False, return_features=True).flatten(1)


class Kinetics400I3D(_I3DFeatures):
    """The Kinetics-400 weights converted to PyTorch, run by our own network of the same layout of keys."""

    spec = _spec(
        name="I3D Kinetics-400",
        source="i3d_pretrained_400.pt of the FVD code of VideoGPT, TATS and cd-fvd (Google Drive id "
        "1mQK8KD8G6UWRa5t87SRMm5PVXtlpneJT)",
        path="i3d_pretrained_400.pt",
        sha256=None,
    )

    @classmethod
    def load(cls, weights: Weights, device: torch.device) -> Kinetics400I3D:
        try:
            state = torch.load(weights.path, map_location="cpu", weights_only=True)
            network = I3D.from_state(state)
        except (RuntimeError, ValueError, pickle.UnpicklingError, EOFError) as error:
            raise WeightsError(f"{cls.spec.name}: {weights.path} cannot be loaded ({_line(error)})") from error
        return cls(weights, network, device)

    def _run(self, batch: Tensor) -> Tensor:
        return self.network(batch)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
