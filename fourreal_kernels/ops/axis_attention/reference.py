"""Axis attention in plain PyTorch: the definition every other backend is tested against.

Scores are materialised. Sums are accumulated in fp32 (fp64 for fp64 inputs).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...grid import Axes, Lines, shared_keys
from ..checks import accumulation_dtype
from .call import AttentionCall, KeyValue


def unavailable() -> str | None:
    return None


def refusal(call: AttentionCall) -> str | None:
    return None


def forward(
    q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor, extra: KeyValue | None = None
) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``."""
    dtype = accumulation_dtype(q.dtype)
    extra = _cast(extra, dtype)
    scores = _scores(q.to(dtype), k.to(dtype), axes, scale, extra)
    probabilities = torch.softmax(scores, dim=-1)
    values = v.to(dtype)
    result = sum(_gather(p, values, lines) for p, lines in _split(probabilities, q, axes))
    if extra is not None:
        result += torch.einsum("bvtnhl,blhd->bvtnhd", _of_extra(probabilities, extra), extra[1])
    out.copy_(result)
    lse.copy_(torch.logsumexp(scores, dim=-1))


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
    extra: KeyValue | None = None, extra_grads: KeyValue | None = None,
) -> None:
    """Write dq, dk, dv into ``grads``, those of the extra keys and values into ``extra_grads``.

    With P the probabilities and dP = grad_out V^T:
    dS = P * (dP - sum(grad_out * out) + grad_lse), dq = scale dS K, dk = scale dS^T q, dv = P^T grad_out.
    """
    dtype = accumulation_dtype(q.dtype)
    query, key, value, grad = (x.to(dtype) for x in (q, k, v, grad_out))
    extra = _cast(extra, dtype)
    probabilities = torch.exp(_scores(query, key, axes, scale, extra) - lse.to(dtype)[..., None])
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
    if extra is not None:
        p = _of_extra(probabilities, extra)
        grad_s = p * (_extra_products(grad, extra[1]) - offset[..., None]) * scale
        dq += torch.einsum("bvtnhl,blhd->bvtnhd", grad_s, extra[0])
        for weights, x, written in ((grad_s, query, extra_grads[0]), (p, grad, extra_grads[1])):
            written.copy_(torch.einsum("bvtnhl,bvtnhd->blhd", weights, x))
    for result, written in zip((dq, dk, dv), grads, strict=True):
        written.copy_(result)


def _cast(extra: KeyValue | None, dtype: torch.dtype) -> KeyValue | None:
    return None if extra is None else (extra[0].to(dtype), extra[1].to(dtype))


def _of_extra(weights: Tensor, extra: KeyValue) -> Tensor:
    """The last L of the weights over all keys of a query."""
    return weights[..., weights.shape[-1] - extra[0].shape[1] :]


def _extra_products(x: Tensor, extra: Tensor) -> Tensor:
    """``(B, V, T, N, H, L)``: inner products of each token with the L extra ones."""
    return torch.einsum("bvtnhd,blhd->bvtnhl", x, extra)


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


def _scores(q: Tensor, k: Tensor, axes: Axes, scale: float, extra: KeyValue | None) -> Tensor:
    """Scaled scores over all keys of a query, the extra ones last; keys of both groups are masked in the second."""
    parts = [_line_products(q, k, lines) * scale for lines in _lines(q, axes)]
    if axes.is_union:
        duplicate = shared_keys(axes, *q.shape[1:4], device=q.device)
        parts[1] = parts[1].masked_fill(duplicate[..., None, :], float("-inf"))
    if extra is not None:
        parts.append(_extra_products(q, extra[0]) * scale)
    return torch.cat(parts, dim=-1)


def _split(x: Tensor, q: Tensor, axes: Axes) -> list[tuple[Tensor, Lines]]:
    """The part of each group's keys; what belongs to extra keys is left out."""
    parts, first = [], 0
    for lines in _lines(q, axes):
        parts.append((x.narrow(-1, first, lines.length), lines))
        first += lines.length
    return parts
