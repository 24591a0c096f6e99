"""Evaluation of the reference model on held-out scenes."""

from .evaluate import evaluate
from .metrics import gradient_energy_ratio, moving_pixels, psnr, ssim

__all__ = ["evaluate", "gradient_energy_ratio", "moving_pixels", "psnr", "ssim"]
