"""A small module made of every differentiable operator, for tests of compilers and exporters."""

from __future__ import annotations

import torch
from torch import nn

from fourreal_kernels import axis_attention, merge_attention, qk_norm_rope, sync_exchange, two_stream_attention


class Layer(nn.Module):
    """One two-stream layer made of every operator."""

    def __init__(self, heads=2, head_dim=8):
        super().__init__()
        dim = heads * head_dim
        self.shape = (3, heads, head_dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm = nn.Parameter(torch.ones(head_dim))
        self.exchange = nn.Parameter(torch.randn(2, 2, dim))
        angle = torch.randn(3, 1, head_dim // 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def project(self, x):
        q, k, v = self.qkv(x).unflatten(-1, self.shape).unbind(-3)
        return *qk_norm_rope(q, k, self.norm, self.norm, self.cos, self.sin), v

    def forward(self, view, time):
        out_view, out_time = two_stream_attention(self.project(view), self.project(time))
        fused, lse = axis_attention(*self.project(view), "vn|tn", return_lse=True)
        merged, _ = merge_attention([out_view, fused], [lse, lse])
        return sync_exchange(merged.flatten(-2), out_time.flatten(-2), self.exchange, kind="soft")


def streams(batch):
    return torch.randn(batch, 2, 3, 4, 16), torch.randn(batch, 2, 3, 4, 16)
