"""Output heads: tokens to predicted clean frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .alignment import EVIDENCE_CHANNELS, Alignment
from .conditioning import Sources
from .matching import displace

_ABSENT = -1e4
_FLOW_SCALE = 4.0


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
        x = self.project(tokens).flatten(0, 2).transpose(1, 2).unflatten(2, (rows, -1))
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
        colours = self.refine(pixels.contiguous(memory_format=torch.channels_last))
        return GridPrediction(colours.unflatten(0, frames.shape[:3]))


class WarpHead(nn.Module):
    """Mixes displaced given frames with predicted colours.

    Each pixel is a convex mix of the nearest given frame of the same view, the nearest given frame of the same
    timestep (each sampled where the aligning flow plus a predicted one points) and a predicted colour. Starts with the
    aligning flow and nearly the mean of the two given frames.

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
            nn.Conv2d(features + 12 + EVIDENCE_CHANNELS, 2 * features, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * features, 2 * features, 3, padding=1),
            nn.SiLU(),
        )
        self.mix = nn.Conv2d(2 * features, 6, 3, padding=1)
        for layer in (self.flow[-1], self.mix):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.mix.bias[2] = -3.0

    def forward(self, tokens: Tensor, frames: Tensor, sources: Sources, alignment: Alignment) -> GridPrediction:
        grid = frames.shape[:3]
        features = self.pixels(tokens, frames.shape[-2])
        evidence = alignment.evidence().flatten(0, 2)
        aligned = [x.flatten(0, 2) for x in (alignment.same_view, alignment.same_time)]
        seen = torch.cat([features, *aligned, evidence], dim=1).contiguous(memory_format=torch.channels_last)
        flow_view, flow_time = (_FLOW_SCALE * self.flow(seen)).chunk(2, dim=1)
        flow_view = flow_view + alignment.flow_same_view.flatten(0, 2)
        flow_time = flow_time + alignment.flow_same_time.flatten(0, 2)
        # Bilinear samples between pixels lose a fifth of the gradient energy of textures.
        warped_view = displace(sources.same_view.flatten(0, 2), flow_view, "bicubic")
        warped_time = displace(sources.same_time.flatten(0, 2), flow_time, "bicubic")
        shown = [x.flatten(0, 2) for x in (frames, sources.same_view)]
        pixels = torch.cat([features, warped_view, warped_time, *shown, evidence], dim=1)
        # Channels-last convolutions of a few channels run twice as fast on CPUs.
        hidden = self.refine(pixels.contiguous(memory_format=torch.channels_last))
        logits, colour = self.mix(hidden).chunk(2, dim=1)
        absent = torch.stack([~sources.has_same_view.flatten(), ~sources.has_same_time.flatten()], dim=1)
        penalty = F.pad(absent.to(logits.dtype) * _ABSENT, (0, 1))
        sharpness = 1.0 if self.training else self.mix_sharpness
        weights = (sharpness * logits + penalty[..., None, None]).softmax(dim=1).unsqueeze(2)
        mixed = (weights * torch.stack([warped_view, warped_time, colour], dim=1)).sum(1)
        return GridPrediction(mixed.unflatten(0, grid), flow_view.unflatten(0, grid), flow_time.unflatten(0, grid))

