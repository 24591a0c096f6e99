"""Attention over whole frames by PyTorch's operators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import from_lines, to_lines


def sdpa_lines(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """SDPA on ``(L, H, S, D)``, for streams that are stored as lines."""
    return F.scaled_dot_product_attention(q, k, v)


def sdpa_permuted(q: Tensor, k: Tensor, v: Tensor, axes: str) -> Tensor:
    """SDPA with the permutes that a grid needs: ``(B, V, T, N, H, D)`` in and out, the result contiguous.

    For ``"tn"`` the permutes are views and nothing is copied.
    """
    lines = F.scaled_dot_product_attention(*(to_lines(x, axes) for x in (q, k, v)))
    return from_lines(lines, axes, tuple(q.shape)).contiguous()


def extra_gathered(q: Tensor, k: Tensor, v: Tensor, axes: str, extra_k: Tensor, extra_v: Tensor) -> Tensor:
    """:func:`sdpa_permuted` with tokens ``(B, L, H, D)`` outside the grid behind the keys and values of every line."""
    keys, values = (_with_extra(to_lines(x, axes), extra) for x, extra in ((k, extra_k), (v, extra_v)))
    lines = F.scaled_dot_product_attention(to_lines(q, axes), keys, values)
    return from_lines(lines, axes, tuple(q.shape)).contiguous()


def _with_extra(lines: Tensor, extra: Tensor) -> Tensor:
    copies = extra.transpose(1, 2).repeat_interleave(lines.shape[0] // extra.shape[0], dim=0)
    return torch.cat([lines, copies], dim=2)


def naive(q: Tensor, k: Tensor, v: Tensor, axes: str) -> Tensor:
    """softmax(q k^T) v with the scores in memory."""
    lines_q, lines_k, lines_v = (to_lines(x, axes) for x in (q, k, v))
    scores = lines_q @ lines_k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return from_lines(scores.softmax(-1) @ lines_v, axes, tuple(q.shape)).contiguous()


def union_mask(views: int, times: int, tokens: int, device: torch.device) -> Tensor:
    """Which tokens of the flattened grid see each other under ``"vn|tn"``: bool ``(VTN, VTN)``."""
    view = torch.arange(views, device=device).repeat_interleave(times * tokens)
    time = torch.arange(times, device=device).repeat_interleave(tokens).repeat(views)
    return (view[:, None] == view) | (time[:, None] == time)


def union_dense_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """``"vn|tn"`` as SDPA over all tokens with a mask."""
    lines = F.scaled_dot_product_attention(*(to_lines(x, "vtn") for x in (q, k, v)), attn_mask=mask)
    return from_lines(lines, "vtn", tuple(q.shape))


def union_gathered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``"vn|tn"`` as SDPA of each frame on its gathered keys: the frames of its view, then the other views'."""
    keys, values = (_gather_union(x) for x in (k, v))
    lines = F.scaled_dot_product_attention(to_lines(q, "n"), keys, values)
    return from_lines(lines, "n", tuple(q.shape))


def _gather_union(x: Tensor) -> Tensor:
    """``(B V T, H, (T + V - 1) N, D)``: what each frame attends to. Concatenation of rolls has a cheap backward."""
    views, times = x.shape[1:3]
    own_view = x[:, :, None].expand(-1, -1, times, *x.shape[2:])
    own_time = [x.roll(-shift, dims=1).unsqueeze(3) for shift in range(1, views)]
    frames = torch.cat([own_view, *own_time], dim=3)
    return frames.flatten(3, 4).flatten(0, 2).transpose(1, 2)


def attends(axes: str, views: int, times: int, tokens: int):
    """Mask function of FlexAttention over the flattened grid."""
    frames = times * tokens

    def same_view(b, h, query, key):
        return query // frames == key // frames

    def same_time(b, h, query, key):
        return (query // tokens) % times == (key // tokens) % times

    def either(b, h, query, key):
        return same_view(b, h, query, key) | same_time(b, h, query, key)

    return {"tn": same_view, "vn": same_time, "vn|tn": either}[axes]


def flex_attention(axes: str, sizes: tuple[int, ...], device: torch.device):
    """Compiled FlexAttention over the flattened grid as a function of q, k, v on the grid."""
    from torch.nn.attention.flex_attention import create_block_mask
    from torch.nn.attention.flex_attention import flex_attention as flex

    _, views, times, tokens, _, _ = sizes
    length = views * times * tokens
    mask = create_block_mask(attends(axes, views, times, tokens), None, None, length, length, device=str(device))
    compiled = torch.compile(flex, dynamic=False, fullgraph=True)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        lines = compiled(*(to_lines(x, "vtn") for x in (q, k, v)), block_mask=mask)
        return from_lines(lines, "vtn", sizes)

    return run
