"""QK-norm and rotary embedding in plain PyTorch: the definition every other backend is tested against.

Arithmetic is in fp32 (fp64 for fp64 inputs).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from .call import NormRopeCall


def unavailable() -> str | None:
    return None


def refusal(call: NormRopeCall) -> str | None:
    return None


def forward(
    q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, cos: Tensor | None, sin: Tensor | None,
    eps: float, out_q: Tensor, out_k: Tensor,
) -> None:
    """Write the normalised and rotated ``q`` and ``k`` into ``out_q`` and ``out_k``, which may be ``q`` and ``k``."""
    for x, weight, out in ((q, q_weight, out_q), (k, k_weight, out_k)):
        out.copy_(_norm_rope(x, weight, cos, sin, eps))


def backward(
    grad_q: Tensor, grad_k: Tensor, q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None,
    cos: Tensor | None, sin: Tensor | None, eps: float, dq: Tensor, dk: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """Write the gradients of ``q`` and ``k`` into ``dq`` and ``dk``; return those of the weights, as accumulated."""
    grad_weights = []
    for grad, x, weight, out in ((grad_q, q, q_weight, dq), (grad_k, k, k_weight, dk)):
        grad_x, grad_weight = _gradients(grad, x, weight, cos, sin, eps)
        out.copy_(grad_x)
        grad_weights.append(grad_weight)
    return grad_weights[0], grad_weights[1]


def _norm_rope(x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float) -> Tensor:
    dtype = accumulation_dtype(x.dtype)
    y = x.to(dtype)
    if weight is not None:
        y = y * _inverse_rms(y, eps) * weight.to(dtype)
    return y if cos is None else _rotate(y, cos.to(dtype), sin.to(dtype))


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float
) -> tuple[Tensor, Tensor | None]:
    """Gradients with respect to ``x`` and ``weight``, in the accumulation dtype."""
    dtype = accumulation_dtype(x.dtype)
    g = grad.to(dtype)
    if cos is not None:
        g = _rotate(g, cos.to(dtype), -sin.to(dtype))
    if weight is None:
        return g, None
    value = x.to(dtype)
    inverse = _inverse_rms(value, eps)
    normalised = value * inverse
    grad_weight = (g * normalised).flatten(0, -2).sum(0)
    g = g * weight.to(dtype)
    return inverse * (g - normalised * (g * normalised).mean(-1, keepdim=True)), grad_weight


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of channels (2i, 2i + 1) by its angle, the same for every head."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
