"""MEt3R of neighbouring views, by the user's own installation of the package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .interface import ScoreExtractor
from .packages import import_package
from .weights import ExtractorSpec, Weights, WeightsError

_SIDE = 256
_OPTIONS = {"use_norm": True, "backbone": "mast3r", "feature_backbone": "dino16", "upsampler": "featup",
            "feature_backbone_weights": "mhamilton723/FeatUp", "distance": "cosine", "freeze": True}  # fmt: skip


class Met3r(ScoreExtractor):
    """The package's score of neighbouring views of a timestep, mean over pairs; lower is more consistent."""

    spec = ExtractorSpec(
        name="MEt3R (MASt3R, DINO, FeatUp)",
        metrics=("MEt3R",),
        source="pip install git+https://github.com/mohammadasim98/met3r; it brings its weights from the hub itself",
        path=None,
        sha256=None,
        preprocessing="antialiased bicubic resize to 256 x 256, values to [-1, 1]; neighbouring views of each timestep "
        "[ours]",
        dimension=1,
        licence="that of the package; MASt3R: CC BY-NC-SA 4.0, not for commercial use",
        needs="the package met3r with PyTorch3D and FeatUp",
    )

    def __init__(self, weights: Weights, model, device: torch.device):
        self._model, self._device = model.eval().to(device), device
        super().__init__(weights)

    @classmethod
    def load(cls, weights: Weights, device: torch.device) -> Met3r:
        package = import_package("met3r", cls.spec)
        try:
            model = package.MEt3R(img_size=_SIDE, **_OPTIONS)
        except (OSError, RuntimeError, TypeError) as error:
            raise WeightsError(f"{cls.spec.name}: the package cannot make its model ({error})") from error
        return cls(weights, model, device)

    @torch.no_grad()
    def scores(self, grid: Tensor, caption: str) -> dict[str, float]:
        frames = F.interpolate(grid.flatten(0, 1), size=(_SIDE, _SIDE), mode="bicubic", antialias=True)
        frames = (frames.clamp(0, 1) * 2 - 1).unflatten(0, grid.shape[:2])
        pairs = torch.stack([frames[:-1], frames[1:]], dim=2).flatten(0, 1)
        values = [self._model(images=pair[None].to(self._device))[0].mean() for pair in pairs]
        return {self.label("MEt3R", "neighbouring views of one timestep"): float(torch.stack(values).mean())}
