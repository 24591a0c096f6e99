"""DUSt3R confidence of pairs of views of one timestep, by the user's own copy of the package."""

from __future__ import annotations

import pickle
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from .interface import ScoreExtractor
from .packages import import_package
from .weights import ExtractorSpec, Weights, WeightsError

THRESHOLDS = (2.0, 2.5, 3.0)
_SIDE, _PATCH, _WIDTH = 512, 16, 1024


class Dust3r(ScoreExtractor):
    """Share of pixels, in percent, whose confidence ``1 + e^x`` is above 2.0, 2.5 and 3.0."""

    spec = ExtractorSpec(
        name="DUSt3R ViT-L 512 DPT",
        metrics=tuple(f"Dust3R-Confidence, tau {threshold}" for threshold in THRESHOLDS),
        source="https://download.europe.naverlabs.com/ComputerVision/DUSt3R/DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth",
        path="DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth",
        sha256=None,
        preprocessing="antialiased bicubic resize of the longer side to 512, both sides to multiples of 16, values to "
        "[-1, 1]; all pairs of different views of a timestep, both frames of each counted [ours]",
        dimension=len(THRESHOLDS),
        licence="CC BY-NC-SA 4.0, not for commercial use",
        needs="the package dust3r (git clone --recursive https://github.com/naver/dust3r)",
    )

    def __init__(self, weights: Weights, model, device: torch.device):
        self._model, self._device = model.eval().to(device), device
        width = getattr(model, "enc_embed_dim", None)
        differs = None if width == _WIDTH else f"encoder of width {width}, the published model has {_WIDTH}"
        super().__init__(weights, differs)

    @classmethod
    def load(cls, weights: Weights, device: torch.device) -> Dust3r:
        package = import_package("dust3r.model", cls.spec)
        try:
            model = package.AsymmetricCroCo3DStereo.from_pretrained(str(weights.path))
        except (OSError, RuntimeError, KeyError, AttributeError, pickle.UnpicklingError) as error:
            raise WeightsError(f"{cls.spec.name}: {weights.path} cannot be loaded ({error})") from error
        return cls(weights, model, device)

    @torch.no_grad()
    def scores(self, grid: Tensor, caption: str) -> dict[str, float]:
        above = torch.zeros(len(THRESHOLDS), dtype=torch.float64)
        count = 0
        for time in range(grid.shape[1]):
            frames = _resized(grid[:, time]).to(self._device)
            for first, second in combinations(range(len(frames)), 2):
                found = self._model(_view(frames, first), _view(frames, second))
                confidence = torch.cat([prediction["conf"].flatten() for prediction in found]).cpu()
                above += torch.stack([(confidence > threshold).double().sum() for threshold in THRESHOLDS])
                count += confidence.numel()
        shares = (100 * above / count).tolist()
        return {
            self.label(metric, f"percent of pixels above {threshold}, pairs of views of one timestep"): share
            for metric, threshold, share in zip(self.spec.metrics, THRESHOLDS, shares, strict=True)
        }


def _resized(frames: Tensor) -> Tensor:
    """Frames ``(V, 3, H, W)`` in [0, 1] as the network takes them: in [-1, 1], sides multiples of 16, at most 512."""
    longer = max(frames.shape[-2:])
    size = [max(_PATCH, round(side * _SIDE / longer / _PATCH) * _PATCH) for side in frames.shape[-2:]]
    return F.interpolate(frames, size=size, mode="bicubic", antialias=True).clamp(0, 1) * 2 - 1


def _view(frames: Tensor, index: int) -> dict:
    shape = torch.tensor([frames.shape[-2:]], dtype=torch.int32, device=frames.device)
    return {"img": frames[index : index + 1], "true_shape": shape, "idx": index, "instance": [str(index)]}
