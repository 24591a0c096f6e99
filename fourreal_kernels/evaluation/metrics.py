"""Image metrics over the frames of a grid. Frames are ``(..., 3, H, W)`` float in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOVING_THRESHOLD = 0.1


def psnr(predicted: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all values, or over the pixels of ``mask`` ``(..., H, W)`` bool."""
    error = (predicted - truth).square()
    if mask is not None:
        error = error[mask.unsqueeze(-3).expand_as(error)]
    return float(-10 * torch.log10(error.mean().clamp_min(1e-12)))


def moving_pixels(truth: Tensor) -> Tensor:
    """Pixels of a grid ``(V, T, 3, H, W)`` that time has changed: some channel is more than 0.1 away from [v, 0].

    Returns:
        ``(V, T, H, W)`` bool.
    """
    return (truth - truth[:, :1]).abs().amax(dim=2) > MOVING_THRESHOLD


def ssim(predicted: Tensor, truth: Tensor) -> float:
    """Structural similarity with the usual 11-tap Gaussian window (sigma 1.5), mean over frames and channels."""
    window = torch.exp(-torch.arange(-5, 6, dtype=truth.dtype, device=truth.device).square() / (2 * 1.5**2))
    window = window / window.sum()
    kernel = (window[:, None] * window[None, :])[None, None]
    x, y = (a.reshape(-1, 1, *a.shape[-2:]) for a in (predicted, truth))

    def blur(a: Tensor) -> Tensor:
        return F.conv2d(a, kernel)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def gradient_energy(frames: Tensor, mask: Tensor) -> float:
    """Sum over the pixels of ``mask`` of the squared differences to the right and lower neighbours."""
    right = frames[..., :-1, 1:] - frames[..., :-1, :-1]
    lower = frames[..., 1:, :-1] - frames[..., :-1, :-1]
    energy = (right.square() + lower.square()).sum(dim=-3)
    return float(energy[mask[..., :-1, :-1]].sum())


def gradient_energy_ratio(predicted: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Gradient energy of the prediction over that of the truth on ``mask``: below 1 is blur, above 1 is noise."""
    return gradient_energy(predicted, mask) / max(gradient_energy(truth, mask), 1e-12)
