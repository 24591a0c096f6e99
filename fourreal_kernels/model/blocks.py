"""The diffusion transformer block of the reference model and its embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..grid import VIEW
from ..nn import GridAttention
from ..nn.attention import Angles
from ..nn.linear import linear

# Tokens of a part where the MLP is computed in parts: enough for its products to run at their full rate, since every
# part reads the weights again, and few enough for the hidden layer to stay near the core.
_PART_TOKENS = 1024


class GridBlock(nn.Module):
    """Attention along grid axes and an MLP, both with adaLN modulation (DiT).

    The modulation is shared by all layers plus a learned table of this one. It starts at zero shift and scale and a
    gate of one, with small output projections.

    Args:
        dim, heads, mlp_ratio: as in :class:`~fourreal_kernels.model.GridConfig`.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.attention = GridAttention(dim, heads, VIEW)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))
        self.table = nn.Parameter(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])[:, None].repeat(1, dim))
        for layer in (self.attention.out, self.mlp[-1]):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, *, axes: str, modulation: Tensor, angles: Angles) -> Tensor:
        """Run the block on one stream.

        Args:
            x: ``(B, V, T, N, C)``.
            axes: the axes attended over.
            modulation: ``(B, 6, C)``.
            angles: ``(cos, sin)`` for these axes.
        """
        shift, scale, gate, *mlp = self._modulation(modulation)
        x = torch.addcmul(x, gate, self.attention(_modulate(x, shift, scale), axes=axes, angles=angles))
        return self._add_mlp(x, *mlp)

    def two_stream(
        self, view: Tensor, time: Tensor, view_kwargs: Mapping[str, Any], time_kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Run the block on both streams with one attention operator.

        Streams that are one tensor (in the first layer, and after a hard synchronisation) are normalised once. Their
        q, k and v are not shared: each stream's context embedding scales the channels that the projection mixes, so
        they agree only where the two modulations do.
        """
        view_shift, view_scale, view_gate, *view_mlp = self._modulation(view_kwargs["modulation"])
        time_shift, time_scale, time_gate, *time_mlp = self._modulation(time_kwargs["modulation"])
        view_norm = _norm(view)
        time_norm = view_norm if time is view else _norm(time)
        view_out, time_out = self.attention.two_stream(
            torch.addcmul(view_shift, view_norm, 1 + view_scale),
            torch.addcmul(time_shift, time_norm, 1 + time_scale),
            view_kwargs["angles"],
            time_kwargs["angles"],
        )
        view = self._add_mlp(torch.addcmul(view, view_gate, view_out), *view_mlp)
        time = self._add_mlp(torch.addcmul(time, time_gate, time_out), *time_mlp)
        return view, time

    def _modulation(self, modulation: Tensor) -> list[Tensor]:
        return [m[:, None, None, None, :] for m in (modulation + self.table).unbind(1)]

    def _add_mlp(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """The MLP's branch added to ``x``, which the caller has no more use for.

        Without grad on the CPU it goes a few frames at a time: the hidden layer, four times the width of the stream,
        then stays in the cache and its memory is used again, where a new one would be mostly page faults.
        """
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return torch.addcmul(x, gate, self.mlp(_modulate(x, shift, scale)))
        for clip in x.unbind(1):
            for part in clip.split(max(1, _PART_TOKENS // clip[:, 0].shape[:-1].numel()), dim=1):
                hidden = linear(self.mlp[0], _modulate(part, shift[:, 0], scale[:, 0]), gelu=True)
                part.addcmul_(gate[:, 0], linear(self.mlp[2], hidden))
        return x


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, _norm(x), 1 + scale)


class SigmaEmbedding(nn.Module):
    """Embeds the diffusion time sigma in [0, 1] (0 clean, 1 noise): sinusoids, then an MLP.

    Args:
        dim: width of the result.
    """

    def __init__(self, dim: int, frequencies: int = 64):
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, sigma: Tensor) -> Tensor:
        """``(B,)`` to ``(B, dim)``."""
        exponent = torch.arange(self.frequencies, device=sigma.device) / self.frequencies
        angles = 1000 * sigma[:, None] * torch.exp(-math.log(10_000) * exponent)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class PatchEmbedding(nn.Module):
    """Frames to tokens: overlapping patches of twice the patch side, so that a token sees over its borders.

    Linear in the frames, so that tokens of some channels add to those of the others.

    Args:
        channels: of the frames.
        dim: C of the tokens.
        patch: stride in pixels.
    """

    def __init__(self, channels: int, dim: int, patch: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, 2 * patch, stride=patch, padding=patch // 2)

    def forward(self, frames: Tensor) -> Tensor:
        """``(B, V, T, channels, H, W)`` to ``(B, V, T, N, C)``."""
        return self._tokens(frames, self.conv.weight, self.conv.bias)

    def first(self, frames: Tensor) -> Tensor:
        """The share of the first channels, without the bias: ``(B, V, T, n, H, W)``, n <= channels."""
        return self._tokens(frames, self.conv.weight[:, : frames.shape[3]], None)

    def rest(self, frames: Tensor) -> Tensor:
        """The share of the last channels and the bias: ``(B, V, T, n, H, W)``, n <= channels."""
        return self._tokens(frames, self.conv.weight[:, -frames.shape[3] :], self.conv.bias)

    def _tokens(self, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tokens = F.conv2d(frames.flatten(0, 2), weight, bias, self.conv.stride, self.conv.padding)
        return tokens.flatten(2).transpose(1, 2).contiguous().unflatten(0, frames.shape[:3])
