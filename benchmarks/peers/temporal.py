"""Temporal attention of video UNets as diffusers 0.42 does it: a sequence of frames at every spatial position.

``models.attention.TemporalBasicTransformerBlock`` (SVD) copies its frames ``(B T, N, C)`` to sequences ``(B N, T, C)``
before ``attn1``, and back when it ends. ``models.unets.unet_motion_model.AnimateDiffTransformer3D`` copies images to
such sequences before its blocks. In between, ``models.attention_processor.AttnProcessor2_0`` attends along each one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def to_sequences(frames: Tensor, times: int) -> Tensor:
    """``(B T, N, C)`` to ``(B N, T, C)``; a copy, unless B is 1."""
    samples = frames.shape[0] // times
    grid = frames[None, :].reshape(samples, times, *frames.shape[1:]).permute(0, 2, 1, 3)
    return grid.reshape(samples * frames.shape[1], times, frames.shape[2])


def to_frames(sequences: Tensor, tokens: int) -> Tensor:
    """Inverse of :func:`to_sequences` for frames of ``tokens`` positions."""
    samples = sequences.shape[0] // tokens
    grid = sequences[None, :].reshape(samples, tokens, *sequences.shape[1:]).permute(0, 2, 1, 3)
    return grid.reshape(samples * sequences.shape[1], tokens, sequences.shape[2])


def attend_sequences(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """SDPA along sequences ``(L, T, C)``."""
    length, _, channels = q.shape
    q, k, v = (x.view(length, -1, heads, channels // heads).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False)
    return out.transpose(1, 2).reshape(length, -1, channels)


@dataclass(frozen=True)
class Projections:
    """Of an attention layer: weights ``(C, C)`` of q, k, v and the output, and the bias of the output."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    bias: Tensor

    def around(self, attend: Attend, x: Tensor) -> Tensor:
        """The layer on ``x``, whose last dim is the channels, with ``attend`` between the projections."""
        q, k, v = (F.linear(x, weight) for weight in (self.query, self.key, self.value))
        return F.linear(attend(q, k, v), self.out, self.bias)

    def double(self) -> Projections:
        return Projections(*(x.double() for x in (self.query, self.key, self.value, self.out, self.bias)))


def layer(x: Tensor, projections: Projections, times: int, heads: int) -> Tensor:
    """``attn1`` of SVD on frames ``(B T, N, C)``, with the copies that the block makes around it."""
    tokens = x.shape[1]
    out = projections.around(lambda q, k, v: attend_sequences(q, k, v, heads), to_sequences(x, times))
    return to_frames(out, tokens)
