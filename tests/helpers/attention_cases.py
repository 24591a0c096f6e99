"""Attention over the grid from the definition of the axes: one boolean mask over all V*T*N tokens."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

GROUPS = ("v", "t", "n", "vt", "vn", "tn", "vtn")
UNIONS = ("v|t", "v|n", "t|n", "v|tn", "vn|t", "vt|n", "vt|vn", "vt|tn", "vn|tn")
AXES = GROUPS + UNIONS
TOKENS = (1, 7, 63, 65, 100, 240, 390)


@lru_cache(maxsize=64)
def allowed_pairs(axes: str, views: int, times: int, tokens: int) -> Tensor:
    """``(V*T*N, V*T*N)`` bool: query i sees key j when, for some group, they agree on every axis not in the group."""
    coordinates = torch.cartesian_prod(torch.arange(views), torch.arange(times), torch.arange(tokens))
    equal = coordinates[:, None] == coordinates[None, :]
    allowed = torch.zeros(equal.shape[:2], dtype=torch.bool)
    for group in axes.split("|"):
        batch_axes = [index for index, letter in enumerate("vtn") if letter not in group]
        allowed |= equal[:, :, batch_axes].all(-1)
    return allowed


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, axes: str, scale: float | None = None, extra: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Eager masked attention over all tokens in the dtype of the inputs, with its log-sum-exp.

    ``extra``: keys and values ``(B, L, H, D)`` that every token sees as well.
    """
    flat = [x.flatten(1, 3) for x in (q, k, v)]
    allowed = allowed_pairs(axes, *q.shape[1:4])
    if extra is not None:
        flat[1:] = [torch.cat(pair, dim=1) for pair in zip(flat[1:], extra, strict=True)]
        allowed = torch.cat([allowed, allowed.new_ones(len(allowed), extra[0].shape[1])], dim=1)
    scores = torch.einsum("bqhd,bkhd->bqhk", flat[0], flat[1]) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores.masked_fill(~allowed[None, :, None, :], float("-inf"))
    out = torch.einsum("bqhk,bkhd->bqhd", torch.softmax(scores, dim=-1), flat[2])
    return out.reshape(q.shape), torch.logsumexp(scores, dim=-1).reshape(q.shape[:5])


def gathered_attention(
    q: Tensor, k: Tensor, v: Tensor, axes: str, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """The same with a product for each query: with the keys that it sees and no others."""
    queries, *pairs = (x.flatten(1, 3) for x in (q, k, v))
    seen = allowed_pairs(axes, *q.shape[1:4]).nonzero()[:, 1].view(queries.shape[1], -1)
    keys, values = (x[:, seen].transpose(2, 3) for x in pairs)
    scores = queries.unsqueeze(3) @ keys.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    out = torch.softmax(scores, dim=-1) @ values
    return out.reshape(q.shape), torch.logsumexp(scores, dim=-1).reshape(q.shape[:5])


def dense_in_fp64(q: Tensor, k: Tensor, v: Tensor, axes: str, scale: float | None = None) -> tuple[Tensor, Tensor]:
    return dense_attention(q.double(), k.double(), v.double(), axes, scale)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def random_qkv(*shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k, v ``(B, V, T, N, H, D)``."""
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(3)]
