"""GridAttention from its definition, line by line, with torch's own attention and the weights of the module."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal_kernels.nn import GridAttention


def normalised(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of channels (2i, 2i + 1) as complex numbers, turned by angles ``(..., D/2)``, the same for all heads."""
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.complex(cos, sin).unsqueeze(-2)
    return torch.view_as_real(turned).flatten(-2)


def _keys_of_line(x: Tensor, axes: str, view: int, time: int, token: int) -> Tensor:
    """Keys or values ``(B, S, H, D)`` seen by the token (view, time, token)."""
    if axes == "vn":
        return x[:, :, time].flatten(1, 2)
    if axes == "tn":
        return x[:, view].flatten(1, 2)
    if axes == "v":
        return x[:, :, time, token]
    if axes == "n":
        return x[:, view, time]
    if axes == "vn|tn":
        other_times = [t for t in range(x.shape[2]) if t != time]
        return torch.cat([x[:, :, time].flatten(1, 2), x[:, view, other_times].flatten(1, 2)], dim=1)
    raise ValueError(f"axes: got {axes!r}")


def plain_grid_attention(
    module: GridAttention, x: Tensor, axes: str, angles: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The output ``(B, V, T, N, C)`` of ``module``, one query token at a time."""
    qkv = F.linear(x, module.qkv.weight, module.qkv.bias)
    q, k, v = (part.unflatten(-1, (module.heads, -1)) for part in qkv.chunk(3, dim=-1))
    if module.q_weight is not None:
        q, k = normalised(q, module.q_weight), normalised(k, module.k_weight)
    if angles is not None:
        q, k = rotated(q, *angles), rotated(k, *angles)
    out = torch.empty_like(q)
    for view, time, token in product(*map(range, x.shape[1:4])):
        keys, values = (_keys_of_line(y, axes, view, time, token).transpose(1, 2) for y in (k, v))
        query = q[:, view, time, token].unsqueeze(2)
        out[:, view, time, token] = F.scaled_dot_product_attention(query, keys, values).squeeze(2)
    return F.linear(out.flatten(-2), module.out.weight, module.out.bias)
