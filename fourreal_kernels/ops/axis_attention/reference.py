"""Axis attention in plain PyTorch: the definition every other backend is tested against.

Scores are materialised. Sums are accumulated in fp32 (fp64 for fp64 inputs).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...grid import Axes, Lines, shared_keys
from ..checks import accumulation_dtype
from .call import AttentionCall


def unavailable() -> str | None:
    return None


def refusal(call: AttentionCall) -> str | None:
    return None


def forward(q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``."""
    dtype = accumulation_dtype(q.dtype)
    scores = _scores(q.to(dtype), k.to(dtype), axes, scale)
    parts = _split(torch.softmax(scores, dim=-1), q, axes)
    values = v.to(dtype)
    out.copy_(sum(_gather(p, values, lines) for p, lines in parts))
    lse.copy_(torch.logsumexp(scores, dim=-1))


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write dq, dk, dv into ``grads``.

    With P the probabilities and dP = grad_out V^T:
    dS = P * (dP - sum(grad_out * out) + grad_lse), dq = scale dS K, dk = scale dS^T q, dv = P^T grad_out.
    """
    dtype = accumulation_dtype(q.dtype)
    query, key, value, grad = (x.to(dtype) for x in (q, k, v, grad_out))
    probabilities = torch.exp(_scores(query, key, axes, scale) - lse.to(dtype)[..., None])
    offset = (grad * out.to(dtype)).sum(-1)
    if grad_lse is not None:
        offset = offset - grad_lse.to(dtype)
    dq, dk, dv = (torch.zeros(q.shape, dtype=dtype, device=q.device) for _ in range(3))
    for p, lines in _split(probabilities, q, axes):
        grad_p = _line_products(grad, value, lines)
        grad_s = p * (grad_p - offset[..., None]) * scale
        dq += _gather(grad_s, key, lines)
        dk += _scatter(grad_s, query, lines)
        dv += _scatter(p, grad, lines)
    for result, written in zip((dq, dk, dv), grads, strict=True):
        written.copy_(result)


def _lines(q: Tensor, axes: Axes) -> list[Lines]:
    return [Lines(group, *q.shape[:4]) for group in axes.groups]


def _line_products(a: Tensor, b: Tensor, lines: Lines) -> Tensor:
    """``(B, V, T, N, H, S)``: inner products of each token of ``a`` with the S tokens of ``b`` on its line."""
    products = torch.einsum("lqhd,lkhd->lqhk", lines.to_lines(a), lines.to_lines(b))
    return lines.from_lines(products)


def _gather(weights: Tensor, x: Tensor, lines: Lines) -> Tensor:
    """Weighted sum, at each token, of the tokens on its line."""
    return lines.from_lines(torch.einsum("lqhk,lkhd->lqhd", lines.to_lines(weights), lines.to_lines(x)))


def _scatter(weights: Tensor, x: Tensor, lines: Lines) -> Tensor:
    """The transpose of :func:`_gather`: each token is sent to the tokens on its line."""
    return lines.from_lines(torch.einsum("lqhk,lqhd->lkhd", lines.to_lines(weights), lines.to_lines(x)))


def _scores(q: Tensor, k: Tensor, axes: Axes, scale: float) -> Tensor:
    """Scaled scores over all keys of a query; for a union, keys of both groups are masked in the second."""
    parts = [_line_products(q, k, lines) * scale for lines in _lines(q, axes)]
    if axes.is_union:
        duplicate = shared_keys(axes, *q.shape[1:4], device=q.device)
        parts[1] = parts[1].masked_fill(duplicate[..., None, :], float("-inf"))
    return torch.cat(parts, dim=-1)


def _split(x: Tensor, q: Tensor, axes: Axes) -> list[tuple[Tensor, Lines]]:
    lines = _lines(q, axes)
    return list(zip(x.split([line.length for line in lines], dim=-1), lines, strict=True))
