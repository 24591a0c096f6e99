"""The validated form of an ``axis_attention`` call, which backends accept or refuse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...grid import Axes, parse_axes
from .. import checks


@dataclass(frozen=True)
class AttentionCall:
    """What a backend may ask about a call before it takes it."""

    axes: Axes
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    deterministic: bool


def attention_call(q: Tensor, axes: str, deterministic: bool) -> AttentionCall:
    return AttentionCall(parse_axes(axes), tuple(q.shape), q.dtype, q.device, deterministic)


def check_inputs(q: Tensor, k: Tensor, v: Tensor, prefix: str = "") -> None:
    """Raise unless q, k, v are grids ``(B, V, T, N, H, D)`` of one shape, dtype and device."""
    checks.require_grid(f"{prefix}q", q)
    for name, x in (("k", k), ("v", v)):
        checks.require_grid(f"{prefix}{name}", x)
        checks.require_like(f"{prefix}{name}", x, f"{prefix}q", q)


def check_scale(scale: object, head_dim: int) -> float:
    """The softmax scale as a number; ``None`` means ``D ** -0.5``."""
    if scale is None:
        return head_dim**-0.5
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TypeError(f"scale: expected a number or None (D ** -0.5), got {type(scale).__name__}")
    if not abs(scale) < float("inf"):
        raise ValueError(f"scale: got {scale}, expected a finite number or None (D ** -0.5)")
    return float(scale)
