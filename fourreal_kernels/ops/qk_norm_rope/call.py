"""The validated form of a ``qk_norm_rope`` call, which backends accept or refuse."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..once import once_per_layout


class NormRopeCall(NamedTuple):
    """What a backend may ask about a call before it takes it."""

    in_place: bool
    normalises: bool
    rotates: bool
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def norm_rope_call(q: Tensor, q_weight: Tensor | None, cos: Tensor | None, *, in_place: bool) -> NormRopeCall:
    return NormRopeCall(in_place, q_weight is not None, cos is not None, tuple(q.shape), q.dtype, q.device)


@once_per_layout
def check_inputs(
    q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, cos: Tensor | None, sin: Tensor | None,
    eps: float,
) -> None:
    """Raise unless every argument has the shape, dtype and device that the operator asks for."""
    checks.require_grid("q", q)
    checks.require_grid("k", k)
    checks.require_like("k", k, "q", q)
    _check_pair("q_weight", q_weight, "k_weight", k_weight)
    _check_pair("cos", cos, "sin", sin)
    if q_weight is not None:
        _check_weight("q_weight", q_weight, q)
        _check_weight("k_weight", k_weight, q)
    if cos is not None:
        _check_angles(cos, sin, q)
    if isinstance(eps, bool) or not isinstance(eps, int | float):
        raise TypeError(f"eps: expected a number, got {type(eps).__name__}")
    if not eps >= 0:
        raise ValueError(f"eps: got {eps}, expected a number >= 0")


def _check_pair(first_name: str, first: Tensor | None, second_name: str, second: Tensor | None) -> None:
    if (first is None) != (second is None):
        given, missing = (second_name, first_name) if first is None else (first_name, second_name)
        raise ValueError(f"{missing}: got None while {given} is given, expected both or neither")


def _check_weight(name: str, weight: Tensor, q: Tensor) -> None:
    checks.require_tensor(name, weight)
    checks.require_like(name, weight, "q", q, shape=False)
    if tuple(weight.shape) != (q.shape[-1],):
        raise ValueError(f"{name}: got shape {tuple(weight.shape)}, expected ({q.shape[-1]},), the head dim D")


def _check_angles(cos: Tensor, sin: Tensor, q: Tensor) -> None:
    *token_sizes, _, head_dim = q.shape
    if head_dim % 2:
        raise ValueError(f"q: got head dim {head_dim}, expected an even one to rotate pairs of channels")
    sizes = (*token_sizes, head_dim // 2)
    checked_shape = None
    for name, x in (("cos", cos), ("sin", sin)):
        checks.require_tensor(name, x)
        checks.require_floating(name, x)
        if x.device != q.device:
            raise ValueError(f"{name}: got device {x.device}, expected {q.device} as q; move one of them")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name}: requires grad, but no gradient flows to it; detach it")
        if x.shape != checked_shape:
            _check_angle_shape(name, tuple(x.shape), sizes)
            checked_shape = x.shape
    if cos.shape != sin.shape or cos.dtype != sin.dtype:
        raise ValueError(
            f"sin: got shape {tuple(sin.shape)} and dtype {sin.dtype}, "
            f"expected {tuple(cos.shape)} and {cos.dtype} as cos"
        )


def _check_angle_shape(name: str, shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    padded = (1,) * (5 - len(shape)) + shape
    per_pair = 1 <= len(shape) <= 5 and shape[-1] == sizes[-1]
    if not per_pair or any(p not in (1, s) for p, s in zip(padded, sizes, strict=True)):
        raise ValueError(
            f"{name}: got shape {shape}, expected one that broadcasts to (B, V, T, N, D/2) = {sizes} "
            "with a last dim of D/2 (one angle per pair of channels)"
        )
