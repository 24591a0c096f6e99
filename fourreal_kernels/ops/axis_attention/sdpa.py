"""Axis attention by PyTorch's own fused attention, with the copies it needs: the honest fallback and peer.

A union A|B is three calls merged by log-sum-exp, A + B - (A and B), so that keys of both groups count once; extra keys
are one more. In the backward each call is given the merged output and log-sum-exp, which makes its probabilities those
of the union.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ...grid import Axes, Lines
from . import sdpa_kernels
from .call import AttentionCall, KeyValue


def unavailable() -> str | None:
    return None


def refusal(call: AttentionCall) -> str | None:
    return sdpa_kernels.refusal(call)


def forward(
    q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor, extra: KeyValue | None = None
) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``."""
    parts = [(*_forward_group(q, k, v, lines, scale), sign) for lines, sign in _signed_lines(q, axes)]
    if extra is not None:
        parts.append((*_forward_extra(q, extra, scale), 1))
    if len(parts) == 1:
        out.copy_(parts[0][0])
        lse.copy_(parts[0][1])
        return
    largest = reduce(torch.maximum, [part_lse for _, part_lse, sign in parts if sign > 0])
    total = torch.zeros_like(largest)
    merged: Tensor | None = None
    for part, part_lse, sign in parts:
        weight = sign * torch.exp(part_lse - largest)
        total += weight
        weighted = part * weight[..., None]
        merged = weighted if merged is None else merged.add_(weighted)
    out.copy_(merged.div_(total[..., None]))
    lse.copy_(largest + total.log())


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
    extra: KeyValue | None = None, extra_grads: KeyValue | None = None,
) -> None:
    """Write dq, dk, dv into ``grads``, those of the extra keys and values into ``extra_grads``."""
    head_dim = q.shape[-1]
    if grad_lse is not None:
        grad_out, q, k, v, out = _carry_grad_lse(grad_out, grad_lse, q, k, v, out)
    for index, (lines, sign) in enumerate(_signed_lines(q, axes)):
        saved = [lines.to_lines(x) for x in (grad_out, q, k, v, out, lse)]
        parts = sdpa_kernels.backward(*saved, scale)
        for written, part in zip(grads, parts, strict=True):
            part = lines.from_lines(part)[..., :head_dim]
            if index == 0:
                written.copy_(part)
            else:
                written.add_(part, alpha=sign)
    if extra is not None:
        keys, values = (F.pad(x, (0, q.shape[-1] - head_dim)) for x in extra)
        lines = _whole_grid(q)
        grad, query, result, sums = (lines.to_lines(x) for x in (grad_out, q, out, lse))
        dq, *parts = sdpa_kernels.backward(grad, query, keys, values, result, sums, scale)
        grads[0].add_(lines.from_lines(dq)[..., :head_dim])
        for written, part in zip(extra_grads, parts, strict=True):
            written.copy_(part[..., :head_dim])


def _whole_grid(q: Tensor) -> Lines:
    return Lines("vtn", *q.shape[:4])


def _forward_extra(q: Tensor, extra: KeyValue, scale: float) -> tuple[Tensor, Tensor]:
    lines = _whole_grid(q)
    out, lse = sdpa_kernels.forward(lines.to_lines(q), *extra, scale)
    return lines.from_lines(out), lines.from_lines(lse)


def _signed_lines(q: Tensor, axes: Axes) -> list[tuple[Lines, int]]:
    groups = [(group, 1) for group in axes.groups]
    if axes.is_union:
        groups.append((axes.overlap, -1))
    return [(Lines(group, *q.shape[:4]), sign) for group, sign in groups]


def _forward_group(q: Tensor, k: Tensor, v: Tensor, lines: Lines, scale: float) -> tuple[Tensor, Tensor]:
    out, lse = sdpa_kernels.forward(lines.to_lines(q), lines.to_lines(k), lines.to_lines(v), scale)
    return lines.from_lines(out), lines.from_lines(lse)


def _carry_grad_lse(
    grad_out: Tensor, grad_lse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor
) -> tuple[Tensor, ...]:
    """Append head-dim channels that make the fused backward add the gradient of the log-sum-exp.

    The fused backward computes dS = P * (grad_out V^T - sum(grad_out * out)). With grad_out = 1, out = -grad_lse and
    zero elsewhere in one more channel, the sum gains exactly -grad_lse. Eight channels keep the alignment it wants.
    """
    q, k, v, out, grad_out = (F.pad(x, (0, 8)) for x in (q, k, v, out, grad_out))
    grad_out[..., -8] = 1
    out[..., -8] = -grad_lse.to(out.dtype)
    return grad_out, q, k, v, out
