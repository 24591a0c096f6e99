"""Samplers of the rectified flow from noise (sigma = 1) to frames (sigma = 0)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SAMPLERS = ("euler", "heun")

Denoise = Callable[[Tensor, float], Tensor]


def sigma_schedule(steps: int) -> list[float]:
    """``steps + 1`` evenly spaced sigmas from 1 to 0."""
    return [1 - step / steps for step in range(steps + 1)]


def check_options(steps: int, sampler: str) -> None:
    """Raise ValueError unless :func:`sample` can run with these options."""
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler: got {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps: got {steps!r}, expected an integer of at least 1")


def sample(
    denoise: Denoise,
    noise: Tensor,
    clean: Tensor,
    given: Tensor,
    *,
    steps: int,
    sampler: str = "euler",
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Integrate dx/dsigma = (x - x0(x, sigma)) / sigma; given frames stay clean throughout.

    Args:
        denoise: ``(x, sigma) -> x0``, the predicted clean frames.
        noise: ``(B, V, T, 3, H, W)`` standard normal.
        clean: the same shape; read where given.
        given: ``(B, V, T)`` bool.
        steps: number of steps; one Euler step is the prediction from pure noise.
        sampler: ``"euler"`` (one evaluation per step) or ``"heun"`` (second order, two evaluations per step but the
            last).
        on_step: called after every step.

    Returns:
        frames like ``noise``, in [-1, 1] where the model keeps to it.
    """
    check_options(steps, sampler)
    fixed = given[..., None, None, None]
    x = torch.where(fixed, clean, noise)
    sigmas = sigma_schedule(steps)
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        velocity = (x - denoise(x, sigma)) / sigma
        proposal = x + (following - sigma) * velocity
        if sampler == "heun" and following > 0:
            proposal = torch.where(fixed, clean, proposal)
            correction = (proposal - denoise(proposal, following)) / following
            proposal = x + (following - sigma) * (velocity + correction) / 2
        x = torch.where(fixed, clean, proposal)
        on_step()
    return x
