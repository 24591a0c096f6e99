"""Trivial predictions of a grid from its first view and first timestep, which any model has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

CHANGED_THRESHOLD = 0.1


def trivial_baselines(fixed_view: Tensor, freeze_time: Tensor) -> dict[str, Tensor]:
    """Predictions ``(V, T, 3, H, W)`` by name.

    With f[v, t] the frames: copies of f[0, t] and f[v, 0], their mean, their mean where f[0, t] differs from f[0, 0]
    (some channel by more than 0.1) and f[v, 0] elsewhere, and f[v, 0] + f[0, t] - f[0, 0].

    Args:
        fixed_view: ``(T, 3, H, W)`` in [0, 1].
        freeze_time: ``(V, 3, H, W)`` in [0, 1].
    """
    shape = (len(freeze_time), len(fixed_view), *fixed_view.shape[1:])
    fixed, freeze = fixed_view[None].expand(shape), freeze_time[:, None].expand(shape)
    changed = ((fixed_view - fixed_view[:1]).abs().amax(1, keepdim=True) > CHANGED_THRESHOLD)[None].expand(shape)
    mean = (fixed + freeze) / 2
    return {
        "copy of the fixed-view frame": fixed,
        "copy of the freeze-time frame": freeze,
        "mean of both": mean,
        "mean where changed, else freeze-time": torch.where(changed, mean, freeze),
        "additive": (fixed + freeze - fixed_view[0]).clamp(0, 1),
    }
