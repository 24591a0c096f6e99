"""The validated form of an ``axis_attention`` call, which backends accept or refuse."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...grid import Axes, parse_axes
from .. import checks
from ..once import once_per_layout

# Keys and values outside the grid, ``(B, L, H, D)`` each, or their gradients.
KeyValue = tuple[Tensor, Tensor]


class AttentionCall(NamedTuple):
    """What a backend may ask about a call before it takes it."""

    axes: Axes
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    deterministic: bool
    extra: int = 0  # how many further tokens, outside the grid, every token attends to


def attention_call(q: Tensor, axes: str, deterministic: bool, extra_k: Tensor | None = None) -> AttentionCall:
    extra = 0 if extra_k is None else extra_k.shape[1]
    return AttentionCall(parse_axes(axes), tuple(q.shape), q.dtype, q.device, deterministic, extra)


@once_per_layout
def check_inputs(q: Tensor, k: Tensor, v: Tensor, prefix: str = "") -> None:
    """Raise unless q, k, v are grids ``(B, V, T, N, H, D)`` of one shape, dtype and device."""
    checks.require_grid(f"{prefix}q", q)
    for name, x in (("k", k), ("v", v)):
        checks.require_grid(f"{prefix}{name}", x)
        checks.require_like(f"{prefix}{name}", x, f"{prefix}q", q)


def check_extra(extra_k: Tensor | None, extra_v: Tensor | None, q: Tensor) -> None:
    """Raise unless both are None, or ``(B, L, H, D)`` with the B, H, D, dtype and device of q."""
    if extra_k is None and extra_v is None:
        return
    for name, x, other in (("extra_k", extra_k, "extra_v"), ("extra_v", extra_v, "extra_k")):
        if x is None:
            raise ValueError(f"{name}: got None, expected a tensor beside {other}; pass both or neither")
        checks.require_tensor(name, x)
        checks.require_like(name, x, "q", q, shape=False)
        expected = (q.shape[0], *q.shape[4:])
        if x.ndim != 4 or (x.shape[0], *x.shape[2:]) != expected or x.shape[1] < 1:
            batch, heads, head_dim = expected
            raise ValueError(
                f"{name}: got shape {tuple(x.shape)}, expected ({batch}, L, {heads}, {head_dim}): batch B, at least "
                "one token L, heads H, head dim D, with the B, H and D of q"
            )
        checks.require_unit_stride(name, x)
    if extra_k.shape != extra_v.shape:
        raise ValueError(f"extra_v: got shape {tuple(extra_v.shape)}, expected {tuple(extra_k.shape)} as extra_k")


def check_scale(scale: object, head_dim: int) -> float:
    """The softmax scale as a number; ``None`` means ``D ** -0.5``."""
    if scale is None:
        return head_dim**-0.5
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TypeError(f"scale: expected a number or None (D ** -0.5), got {type(scale).__name__}")
    if not abs(scale) < float("inf"):
        raise ValueError(f"scale: got {scale}, expected a finite number or None (D ** -0.5)")
    return float(scale)
