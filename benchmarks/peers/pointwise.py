"""Attention along one short axis, at the same position of every frame, by PyTorch's operators.

Every form takes q, k, v on the grid ``(B, V, T, N, H, D)`` and returns the grid with any strides.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import from_lines, to_lines

Form = Callable[[Tensor, Tensor, Tensor], Tensor]

_SCORES = {"v": "bvtnhd,bwtnhd->btnhvw", "t": "bvtnhd,bvwnhd->bvnhtw"}
_MIX = {"v": "btnhvw,bwtnhd->bvtnhd", "t": "bvnhtw,bvwnhd->bvtnhd"}
_DIM = {"v": 1, "t": 2}


def sdpa(axes: str) -> Form:
    """permute + SDPA + permute."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        lines = F.scaled_dot_product_attention(*(to_lines(x, axes) for x in (q, k, v)))
        return from_lines(lines, axes, tuple(q.shape))

    return run


def einsum(axes: str) -> Form:
    """einsum, softmax, einsum."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum(_SCORES[axes], q, k) * q.shape[-1] ** -0.5
        return torch.einsum(_MIX[axes], scores.softmax(-1), v)

    return run


def products(axes: str) -> Form:
    """Products summed over D, which ``torch.compile`` fuses into loops (eager, they would fill memory)."""
    dim = _DIM[axes]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q.unsqueeze(dim + 1) * k.unsqueeze(dim)).sum(-1) * q.shape[-1] ** -0.5
        return (scores.softmax(dim + 1).unsqueeze(-1) * v.unsqueeze(dim)).sum(dim + 1)

    return run


def union_masked_sdpa(mask: Tensor) -> Form:
    """``"v|t"`` as SDPA over the V T frames at each position with a mask ``(VT, VT)``."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        lines = F.scaled_dot_product_attention(*(to_lines(x, "vt") for x in (q, k, v)), attn_mask=mask)
        return from_lines(lines, "vt", tuple(q.shape))

    return run


def union_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``"v|t"``: the scores of both axes side by side, the own frame masked out of the second."""
    p_view, p_time = _union_probabilities(
        torch.einsum("bvtnhd,bwtnhd->bvtnhw", q, k), torch.einsum("bvtnhd,bvwnhd->bvtnhw", q, k), q.shape[-1]
    )
    return torch.einsum("bvtnhw,bwtnhd->bvtnhd", p_view, v) + torch.einsum("bvtnhw,bvwnhd->bvtnhd", p_time, v)


def union_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """:func:`union_einsum` with products summed over D."""
    p_view, p_time = _union_probabilities(
        (q.unsqueeze(-2) * _along_view(k)).sum(-1), (q.unsqueeze(-2) * _along_time(k)).sum(-1), q.shape[-1]
    )
    return (p_view.unsqueeze(-1) * _along_view(v)).sum(-2) + (p_time.unsqueeze(-1) * _along_time(v)).sum(-2)


def _along_view(x: Tensor) -> Tensor:
    """``(B, 1, T, N, H, V, D)``."""
    return x.permute(0, 2, 3, 4, 1, 5).unsqueeze(1)


def _along_time(x: Tensor) -> Tensor:
    """``(B, V, 1, N, H, T, D)``."""
    return x.permute(0, 1, 3, 4, 2, 5).unsqueeze(2)


def _union_probabilities(along_view: Tensor, along_time: Tensor, head_dim: int) -> tuple[Tensor, ...]:
    """Joint softmax over the scores ``(B, V, T, N, H, V)`` and ``(B, V, T, N, H, T)``."""
    views, times = along_view.shape[-1], along_time.shape[-1]
    own = torch.eye(times, dtype=torch.bool, device=along_time.device)[:, None, None]
    scores = torch.cat([along_view, along_time.masked_fill(own, float("-inf"))], dim=-1)
    return (scores * head_dim**-0.5).softmax(-1).split([views, times], dim=-1)
