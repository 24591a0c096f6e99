"""Synchronisation layers: learned exchange between the view stream and the time stream.

The paper does not publish how sigma modulates the exchange. Here, as in adaLN, a linear map of the conditioning gives
each sample and channel a scale of the inputs and a gate of the result; it starts at zero, so that the modulation starts
at one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.sync_exchange.api import sync_exchange, sync_exchange_


class _Sync(nn.Module):
    """Shared by both kinds: the weights and their modulation by the conditioning."""

    kind: str

    def __init__(self, dim: int, outputs: int, cond_dim: int | None, weight: Tensor):
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.modulation = None if cond_dim is None else nn.Linear(cond_dim, 2 * dim + outputs)
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self, view: Tensor, time: Tensor, cond: Tensor | None = None, *, inplace: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Exchange between the streams.

        Args:
            view, time: ``(B, V, T, N, C)``.
            cond: ``(B, cond_dim)`` embedding of sigma, required exactly when the layer has a ``cond_dim``.
            inplace: write into ``view`` and ``time`` (only without grad).

        Returns:
            ``(view, time)``.

        Raises:
            ValueError: ``cond`` is missing or not expected.
        """
        scale, gate = self._modulate(cond)
        arguments = dict(kind=self.kind, input_scale=scale, gate=gate)
        if inplace:
            sync_exchange_(view, time, self.weight, self.bias, **arguments)
            return view, time
        return sync_exchange(view, time, self.weight, self.bias, **arguments)

    def _modulate(self, cond: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if (cond is None) != (self.modulation is None):
            expected = "None, since cond_dim is None" if self.modulation is None else "a (B, cond_dim) tensor"
            raise ValueError(f"cond: got {'None' if cond is None else 'a tensor'}, expected {expected}")
        if self.modulation is None:
            return None, None
        modulation = 1 + self.modulation(cond)
        return modulation[:, : 2 * self.dim], modulation[:, 2 * self.dim :]


class HardSync(_Sync):
    """Hard synchronisation: both streams continue from x = W_v y_view + W_t y_time (4Real-Video).

    Starts as the plain average: W_v = W_t = I/2, bias 0, modulation 1.

    Args:
        dim: C.
        cond_dim: width of the conditioning; None for no modulation.
        per_channel: one weight per channel and stream instead of dense matrices.
    """

    kind = "hard"

    def __init__(self, dim: int, cond_dim: int | None = None, *, per_channel: bool = False):
        weight = torch.full((2, dim), 0.5) if per_channel else torch.eye(dim).repeat(1, 2) / 2
        super().__init__(dim, dim, cond_dim, weight)


class SoftSync(_Sync):
    """Soft synchronisation: (d_view, d_time) = ModLinear(y_view, y_time; sigma), x = y + d (4Real-Video).

    Starts at zero, so that the streams are uncoupled.

    Args:
        dim: C.
        cond_dim: width of the conditioning; None for no modulation.
        per_channel: one weight per channel and pair of streams instead of a dense matrix.
    """

    kind = "soft"

    def __init__(self, dim: int, cond_dim: int | None = None, *, per_channel: bool = False):
        weight = torch.zeros(2, 2, dim) if per_channel else torch.zeros(2 * dim, 2 * dim)
        super().__init__(dim, 2 * dim, cond_dim, weight)
