"""The exchange in plain PyTorch: the definition every other backend is tested against.

Sums are accumulated in fp32 (fp64 for fp64 inputs). The dense products go through torch's own GEMM.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from .call import ExchangeCall, ExchangeGradients, is_per_channel


def unavailable() -> str | None:
    return None


def refusal(call: ExchangeCall) -> str | None:
    return None


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    """Write the exchanged streams into ``out_view`` and ``out_time``, which may be ``view`` and ``time``."""
    streams = (view, time)
    dtype = accumulation_dtype(view.dtype)
    mixed = _mix(_scaled(streams, input_scale, dtype), weight.to(dtype), bias, kind)
    if gate is not None:
        mixed = mixed * _per_sample(gate.to(dtype), view)
    if kind == "hard":
        out_view.copy_(mixed)
        out_time.copy_(mixed)
        return
    for out, stream, delta in zip((out_view, out_time), streams, mixed.chunk(2, dim=-1), strict=True):
        out.copy_(stream.to(dtype) + delta)


def backward(grad_view: Tensor, grad_time: Tensor, view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None,
             input_scale: Tensor | None, gate: Tensor | None, kind: str) -> ExchangeGradients:
    """Gradients with respect to every argument, in the accumulation dtype."""
    dtype = accumulation_dtype(view.dtype)
    direct = (grad_view.to(dtype), grad_time.to(dtype))
    grad = direct[0] + direct[1] if kind == "hard" else torch.cat(direct, dim=-1)
    streams = (view, time)
    scaled = _scaled(streams, input_scale, dtype)
    weights = weight.to(dtype)
    grad_gate = None
    if gate is not None:
        grad_gate = _sum_per_sample(grad * _mix(scaled, weights, bias, kind))
        grad = grad * _per_sample(gate.to(dtype), view)
    grad_bias = None if bias is None else grad.flatten(0, -2).sum(0)
    grad_weight, grad_scaled = _mix_backward(grad, scaled, weights, kind)
    grad_scale = None
    if input_scale is not None:
        grad_scale = torch.cat(
            [_sum_per_sample(g * x.to(dtype)) for g, x in zip(grad_scaled, streams, strict=True)], dim=-1
        )
        scales = input_scale.to(dtype).chunk(2, dim=-1)
        grad_scaled = [g * _per_sample(s, view) for g, s in zip(grad_scaled, scales, strict=True)]
    if kind == "soft":
        grad_scaled = [g + through for g, through in zip(grad_scaled, direct, strict=True)]
    return ExchangeGradients(*grad_scaled, grad_weight, grad_bias, grad_scale, grad_gate)


def _per_sample(x: Tensor, like: Tensor) -> Tensor:
    """``(B, K)`` to ``(B, 1, ..., 1, K)``."""
    return x.view(x.shape[0], *[1] * (like.ndim - 2), x.shape[-1])


def _sum_per_sample(x: Tensor) -> Tensor:
    return x.sum(dim=list(range(1, x.ndim - 1))) if x.ndim > 2 else x


def _scaled(streams: tuple[Tensor, Tensor], input_scale: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
    if input_scale is None:
        return [x.to(dtype) for x in streams]
    scales = input_scale.to(dtype).chunk(2, dim=-1)
    return [x.to(dtype) * _per_sample(s, x) for x, s in zip(streams, scales, strict=True)]


def _mix(scaled: list[Tensor], weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """z W^T + bias with z = concat(scaled): ``(B, ..., K)``, K = C (hard) or 2C (soft)."""
    channels = scaled[0].shape[-1]
    if is_per_channel(weight, kind, channels):
        per_stream = weight.view(-1, 2, channels).unbind(1)
        mixed = sum(x.unsqueeze(-2) * w for x, w in zip(scaled, per_stream, strict=True)).flatten(-2)
    else:
        mixed = sum(x @ w.T for x, w in zip(scaled, weight.chunk(2, dim=1), strict=True))
    return mixed if bias is None else mixed + bias.to(mixed.dtype)


def _mix_backward(grad: Tensor, scaled: list[Tensor], weight: Tensor, kind: str) -> tuple[Tensor, list[Tensor]]:
    channels = scaled[0].shape[-1]
    if not is_per_channel(weight, kind, channels):
        flat = grad.flatten(0, -2)
        grad_weight = torch.cat([flat.T @ x.flatten(0, -2) for x in scaled], dim=1)
        return grad_weight, [grad @ w for w in weight.chunk(2, dim=1)]
    split = grad.unflatten(-1, (-1, channels))
    per_stream = weight.view(-1, 2, channels).unbind(1)
    grad_weight = torch.stack([(split * x.unsqueeze(-2)).flatten(0, -3).sum(0) for x in scaled], dim=1)
    return grad_weight.view(weight.shape), [(split * w).sum(-2) for w in per_stream]
