"""Output heads: tokens to predicted clean frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.linear import linear
from .alignment import EVIDENCE_CHANNELS, Alignment
from .conditioning import Sources
from .matching import displace

_ABSENT = -1e4
_FLOW_SCALE = 4.0
# Displaced frames that the warp head mixes: of the same view and timestep, by predicted and by aligning flows.
_DISPLACED = 4


@dataclass(frozen=True)
class GridPrediction:
    """What the model predicts for each frame.

    Attributes:
        frames: ``(B, V, T, 3, H, W)`` clean frames in [-1, 1].
        flow_same_view, flow_same_time: ``(B, V, T, 2, H, W)`` displacement (dx, dy) in pixels from a pixel to its
            match in the nearest given frame of the same view or timestep; None for the direct head and where only
            missing frames were predicted.
    """

    frames: Tensor
    flow_same_view: Tensor | None = None
    flow_same_time: Tensor | None = None


class _PixelFeatures(nn.Module):
    """Tokens to ``features`` channels per pixel."""

    def __init__(self, dim: int, patch: int, features: int):
        super().__init__()
        self.patch = patch
        self.project = nn.Linear(dim, features * patch * patch)

    def forward(self, tokens: Tensor, height: int) -> Tensor:
        """``(B, V, T, N, C)`` to ``(B * V * T, features, H, W)``."""
        rows = height // self.patch
        x = linear(self.project, tokens).flatten(0, 2).transpose(1, 2).unflatten(2, (rows, -1))
        return F.pixel_shuffle(x, self.patch)


class DirectHead(nn.Module):
    """Predicts colours; two 3x3 convolutions remove the seams between patches.

    Args:
        dim: C of the tokens.
        patch: pixels per token side.
        features: channels per pixel.
    """

    def __init__(self, dim: int, patch: int, features: int):
        super().__init__()
        self.pixels = _PixelFeatures(dim, patch, features)
        self.refine = nn.Sequential(
            nn.Conv2d(features + 3, 2 * features, 3, padding=1), nn.SiLU(), nn.Conv2d(2 * features, 3, 3, padding=1)
        )

    def forward(self, tokens: Tensor, frames: Tensor, sources: Sources, alignment: Alignment) -> GridPrediction:
        noisy = frames.flatten(0, 2)
        features = self.pixels(tokens, frames.shape[-2])
        pixels = torch.cat([features, noisy], dim=1)
        colours = self.refine(_channels_last(pixels))
        return GridPrediction(colours.unflatten(0, frames.shape[:3]))


class WarpHead(nn.Module):
    """Mixes displaced given frames with predicted colours.

    Each pixel is a convex mix of five colours: the nearest given frame of the same view and the nearest given frame of
    the same timestep, each where the aligning flow points and where that flow plus a predicted one points, and a
    predicted colour. The matched flows are exact where there is texture, the predicted ones reach where there is none.
    Starts with the aligning flows and nearly the mean of the two given frames.

    Args:
        dim: C of the tokens.
        patch: pixels per token side.
        features: channels per pixel.
        mix_sharpness: factor of the mixing logits outside training.
    """

    def __init__(self, dim: int, patch: int, features: int, mix_sharpness: float = 1.0):
        super().__init__()
        self.mix_sharpness = mix_sharpness
        self.pixels = _PixelFeatures(dim, patch, features)
        self.flow = nn.Sequential(
            nn.Conv2d(features + 6 + EVIDENCE_CHANNELS, 2 * features, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * features, 4, 3, padding=1),
        )
        self.refine = nn.Sequential(
            nn.Conv2d(features + 18 + EVIDENCE_CHANNELS, 2 * features, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * features, 2 * features, 3, padding=1),
            nn.SiLU(),
        )
        self.mix = nn.Conv2d(2 * features, _DISPLACED + 1 + 3, 3, padding=1)
        for layer in (self.flow[-1], self.mix):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.mix.bias[_DISPLACED] = -3.0

    def forward(self, tokens: Tensor, frames: Tensor, sources: Sources, alignment: Alignment) -> GridPrediction:
        grid = frames.shape[:3]
        features = self.pixels(tokens, frames.shape[-2])
        aligned = [x.flatten(0, 2) for x in (alignment.same_view, alignment.same_time)]
        evidence = alignment.evidence().flatten(0, 2)
        flow_view, flow_time = self._flows(torch.cat([features, *aligned, evidence], dim=1), alignment)
        # Bilinear samples between pixels lose a fifth of the gradient energy of textures.
        displaced = [
            displace(sources.same_view.flatten(0, 2), flow_view, "bicubic"),
            displace(sources.same_time.flatten(0, 2), flow_time, "bicubic"),
            *aligned,
        ]
        shown = [x.flatten(0, 2) for x in (frames, sources.same_view)]
        logits, colour = self._mix(torch.cat([features, *displaced, *shown, evidence], dim=1))
        weights = self._weights(logits, sources)
        mixed = (weights * torch.stack([*displaced, colour], dim=1)).sum(1)
        return GridPrediction(mixed.unflatten(0, grid), flow_view.unflatten(0, grid), flow_time.unflatten(0, grid))

    def _flows(self, seen: Tensor, alignment: Alignment) -> tuple[Tensor, Tensor]:
        """Flows to the frames of the same view and of the same timestep, ``(M, 2, H, W)`` each."""
        more_view, more_time = (_FLOW_SCALE * self.flow(_channels_last(seen))).chunk(2, dim=1)
        return alignment.flow_same_view.flatten(0, 2) + more_view, alignment.flow_same_time.flatten(0, 2) + more_time

    def _mix(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(M, 5, H, W)`` of the displaced frames and the colour, and that colour ``(M, 3, H, W)``."""
        return self.mix(self.refine(_channels_last(seen))).split([_DISPLACED + 1, 3], dim=1)

    def _weights(self, logits: Tensor, sources: Sources) -> Tensor:
        """``(M, 5, 1, H, W)``, zero for frames that are absent."""
        absent = torch.stack([~sources.has_same_view.flatten(), ~sources.has_same_time.flatten()], dim=1)
        penalty = F.pad(absent.repeat(1, 2).to(logits.dtype) * _ABSENT, (0, 1))
        sharpness = 1.0 if self.training else self.mix_sharpness
        return (sharpness * logits + penalty[..., None, None]).softmax(dim=1).unsqueeze(2)


def _channels_last(x: Tensor) -> Tensor:
    """Convolutions of a few channels run twice as fast on CPUs in this format."""
    return x.contiguous(memory_format=torch.channels_last)
