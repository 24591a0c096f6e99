"""The validated form of a ``sync_exchange`` call, which backends accept or refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..once import once_per_layout

KINDS = ("hard", "soft")


class ExchangeCall(NamedTuple):
    """What a backend may ask about a call before it takes it."""

    kind: str
    per_channel: bool
    in_place: bool
    needs_grad: bool
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass
class ExchangeGradients:
    """Gradients of one exchange; those of absent arguments are None."""

    view: Tensor
    time: Tensor
    weight: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    gate: Tensor | None


def is_per_channel(weight: Tensor, kind: str, channels: int) -> bool:
    """True for weights ``(2, C)`` (hard) or ``(2, 2, C)`` (soft), False for dense ``(C, 2C)`` or ``(2C, 2C)``.

    No size is both: a dense hard weight is ``(C, 2C)``, and 2C = C has no solution.
    """
    return weight.ndim == 3 or (kind == "hard" and tuple(weight.shape) == (2, channels))


def requires_grad(*tensors: Tensor | None) -> bool:
    """True when autograd will ask for the gradient of a call with these arguments."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def exchange_call(view: Tensor, weight: Tensor, kind: str, *, in_place: bool, needs_grad: bool) -> ExchangeCall:
    per_channel = is_per_channel(weight, kind, view.shape[-1])
    return ExchangeCall(kind, per_channel, in_place, needs_grad, tuple(view.shape), view.dtype, view.device)


@once_per_layout
def check_inputs(
    view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, kind: str,
    input_scale: Tensor | None, gate: Tensor | None,
) -> None:
    """Raise unless every argument has the shape, dtype and device that ``kind`` asks for."""
    if not isinstance(kind, str):
        raise TypeError(f"kind: expected 'hard' or 'soft', got {type(kind).__name__}")
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, expected 'hard' or 'soft'")
    _check_stream("view", view)
    _check_stream("time", time)
    checks.require_like("time", time, "view", view)
    batch, channels = view.shape[0], view.shape[-1]
    outputs = channels if kind == "hard" else 2 * channels
    _check_weight(weight, view, kind, channels, outputs)
    for name, x, shape in (
        ("bias", bias, (outputs,)),
        ("input_scale", input_scale, (batch, 2 * channels)),
        ("gate", gate, (batch, outputs)),
    ):
        if x is not None:
            _check_parameter(name, x, view, shape, kind)


def _check_stream(name: str, x: Tensor) -> None:
    checks.require_tensor(name, x)
    if x.ndim < 2:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected (B, ..., C) with at least 2 dims")
    checks.require_floating(name, x)
    if 0 in x.shape:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected every size to be at least 1")
    checks.require_unit_stride(name, x)


def _check_weight(weight: Tensor, view: Tensor, kind: str, channels: int, outputs: int) -> None:
    checks.require_tensor("weight", weight)
    checks.require_like("weight", weight, "view", view, shape=False)
    dense = (outputs, 2 * channels)
    per_channel = (2, channels) if kind == "hard" else (2, 2, channels)
    if tuple(weight.shape) not in (dense, per_channel):
        raise ValueError(
            f"weight: got shape {tuple(weight.shape)}, expected {dense} (dense) or {per_channel} (per channel) "
            f"for kind={kind!r} and C={channels}"
        )


def _check_parameter(name: str, x: Tensor, view: Tensor, shape: tuple[int, ...], kind: str) -> None:
    checks.require_tensor(name, x)
    checks.require_like(name, x, "view", view, shape=False)
    if tuple(x.shape) != shape:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected {shape} for kind={kind!r}")
