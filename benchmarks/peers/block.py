"""A two-stream transformer block in eager PyTorch, with the weights of ours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourreal_kernels.model.blocks import GridBlock
from fourreal_kernels.nn import SoftSync

from .attention import sdpa_permuted
from .norm_rope import norm_rope

Angles = tuple[Tensor, Tensor]


class EagerTwoStreamBlock(nn.Module):
    """adaLN, QK-norm, rotary embedding, SDPA with permutes, MLP, and a dense soft exchange.

    Args:
        block, sync: the modules whose weights it shares.
    """

    def __init__(self, block: GridBlock, sync: SoftSync):
        super().__init__()
        self.block, self.sync = block, sync

    def forward(
        self, view: Tensor, time: Tensor, cond: Tensor, view_kwargs: dict, time_kwargs: dict
    ) -> tuple[Tensor, Tensor]:
        """As :class:`fourreal_kernels.nn.TwoStreamBlock`."""
        view = self._stream(view, "vn", **view_kwargs)
        time = self._stream(time, "tn", **time_kwargs)
        return self._exchange(view, time, cond)

    def _stream(self, x: Tensor, axes: str, modulation: Tensor, angles: Angles) -> Tensor:
        parts = (modulation + self.block.table)[:, :, None, None, None].unbind(1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        x = x + gate * self._attention(_modulate(x, shift, scale), axes, angles)
        return x + mlp_gate * self.block.mlp(_modulate(x, mlp_shift, mlp_scale))

    def _attention(self, x: Tensor, axes: str, angles: Angles) -> Tensor:
        layer = self.block.attention
        q, k, v = layer.qkv(x).unflatten(-1, (3, layer.heads, -1)).unbind(-3)
        q, k = norm_rope(q, layer.q_weight, *angles), norm_rope(k, layer.k_weight, *angles)
        return layer.out(sdpa_permuted(q, k, v, axes).flatten(-2))

    def _exchange(self, view: Tensor, time: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        dim = view.shape[-1]
        modulation = (1 + self.sync.modulation(cond))[:, None, None, None]
        scale, gate = modulation[..., : 2 * dim], modulation[..., 2 * dim :]
        joined = torch.cat([view, time], dim=-1) * scale
        d_view, d_time = (gate * F.linear(joined, self.sync.weight, self.sync.bias)).chunk(2, dim=-1)
        return view + d_view, time + d_time


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
