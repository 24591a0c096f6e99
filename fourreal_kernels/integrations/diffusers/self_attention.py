"""Attention processor for blocks in which video tokens attend to one another alone: Wan and LTX-Video."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ...ops.axis_attention.api import axis_attention
from .grid_angles import GridAngles


class SelfAttentionProcessor(ABC):
    """What the processors of these models have in common.

    Args:
        backend: of :func:`fourreal_kernels.axis_attention`.
    """

    def __init__(self, backend: str | None = None):
        self.backend = backend

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: GridAngles | None = None,
    ) -> Tensor:
        """Self-attention of ``(B, V*T*N, C)`` tokens along the axes of ``rotary_emb``.

        Raises:
            NotImplementedError: there is a mask.
        """
        if attention_mask is not None:
            raise NotImplementedError("attention_mask: got a mask, expected None; remove_from(model) takes masks again")
        q, k, v = self.project(attn, hidden_states, rotary_emb)
        out = axis_attention(q, k, v, rotary_emb.axes, backend=self.backend)
        return attn.to_out[1](attn.to_out[0](out.flatten(4).flatten(1, 3)))

    @abstractmethod
    def project(self, attn: nn.Module, x: Tensor, grid: GridAngles) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v ``(B, V, T, N, H, D)``, normalised and rotated as the model does."""
