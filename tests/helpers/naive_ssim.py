"""Structural similarity pixel by pixel in numpy, from its definition."""

from __future__ import annotations

import numpy as np


def naive_ssim(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean over windows of frames ``(M, H, W)`` in [0, 1]: 11 x 11 Gaussian weights, sigma 1.5, whole windows only."""
    offsets = np.arange(11) - 5.0
    weight = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for x, y in zip(predicted.astype(np.float64), truth.astype(np.float64), strict=True):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                a, b = (image[top : top + 11, left : left + 11] for image in (x, y))
                values.append(_window(a, b, weight))
    return float(np.mean(values))


def _window(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> float:
    mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
    variance_a = (weight * (a - mean_a) ** 2).sum()
    variance_b = (weight * (b - mean_b) ** 2).sum()
    covariance = (weight * (a - mean_a) * (b - mean_b)).sum()
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variance_a + variance_b + 0.03**2)
    return luminance * structure
