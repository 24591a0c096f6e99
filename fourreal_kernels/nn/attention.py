"""Self-attention over the axes of a grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..grid import TIME, VIEW, parse_axes
from ..ops.axis_attention.api import axis_attention, two_stream_attention
from .linear import linear
from .norm_rope import norm_rope

Angles = tuple[Tensor, Tensor]


class GridAttention(nn.Module):
    """Multi-head self-attention of ``(B, V, T, N, C)`` activations along the axes of the grid.

    Args:
        dim: C.
        heads: H; D = C / H.
        axes: the axes attended over, see :mod:`fourreal_kernels.grid`.
        qk_norm: RMS-normalise queries and keys over the head dim.
        rope: a module called as ``rope(axes, view_indices, time_indices) -> (cos, sin)``, such as
            :class:`GridRope`; None for no rotary embedding (or to pass ``angles`` at each call).
    """

    def __init__(self, dim: int, heads: int, axes: str, qk_norm: bool = True, rope: nn.Module | None = None):
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads: got {heads}, expected a divisor of dim={dim}")
        self.heads = heads
        self.axes = str(parse_axes(axes))
        self.rope = rope
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        head_dim = dim // heads
        self.q_weight = nn.Parameter(torch.ones(head_dim)) if qk_norm else None
        self.k_weight = nn.Parameter(torch.ones(head_dim)) if qk_norm else None

    def forward(self, x: Tensor, *, axes: str | None = None, angles: Angles | None = None) -> Tensor:
        """Attend over ``axes`` (those of the constructor when None).

        Args:
            x: ``(B, V, T, N, C)``.
            angles: ``(cos, sin)`` broadcastable to ``(B, V, T, N, D/2)`` instead of those of ``rope``.

        Returns:
            ``(B, V, T, N, C)``.
        """
        axes = axes or self.axes
        q, k, v = self._qkv(x, axes, angles)
        return linear(self.out, axis_attention(q, k, v, axes).flatten(-2))

    def two_stream(self, view: Tensor, time: Tensor, view_angles: Angles | None = None,
                   time_angles: Angles | None = None) -> tuple[Tensor, Tensor]:
        """View attention of ``view`` and time attention of ``time`` with these same weights, in one operator."""
        out_view, out_time = two_stream_attention(
            self._qkv(view, VIEW, view_angles), self._qkv(time, TIME, time_angles)
        )
        return linear(self.out, out_view.flatten(-2)), linear(self.out, out_time.flatten(-2))

    def _qkv(self, x: Tensor, axes: str, angles: Angles | None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = linear(self.qkv, x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        cos, sin = angles or self._angles(x, axes)
        return *norm_rope(q, k, self.q_weight, self.k_weight, cos, sin), v

    def _angles(self, x: Tensor, axes: str) -> Angles | tuple[None, None]:
        if self.rope is None:
            return None, None
        views = torch.arange(x.shape[1], device=x.device)
        times = torch.arange(x.shape[2], device=x.device)
        return self.rope(axes, views, times)
