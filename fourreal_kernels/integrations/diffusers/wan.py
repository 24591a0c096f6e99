"""Wan (``WanTransformer3DModel``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...ops.axis_attention.api import axis_attention
from ...ops.qk_norm_rope.api import qk_norm_rope, qk_norm_rope_
from .grid_angles import GridAngles, GridSizes, StreamAngles
from .transformers import GRID_HELP, VideoTransformer, argument, with_argument


class WanGrid(VideoTransformer):
    """The changes to one ``WanTransformer3DModel``. Latents are ``(B, C, F, H, W)`` or ``(B, V, C, T, H, W)``."""

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.blocks

    @property
    def tokens_weight(self) -> Tensor:
        return self.model.patch_embedding.weight

    @property
    def processor(self) -> WanGridProcessor:
        return WanGridProcessor(self.options.backend)

    @staticmethod
    def temb_of(temb: Tensor) -> Tensor:
        return temb.flatten(-2)

    def before(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        latents = argument(args, kwargs, "hidden_states", 0)
        if latents.ndim not in (5, 6):
            raise ValueError(
                f"hidden_states: got {latents.ndim} dims with shape {tuple(latents.shape)}, expected a video "
                f"(B, C, F, H, W) or a grid; {GRID_HELP}"
            )
        gridded = latents.ndim == 6
        if gridded:
            views, frames = self.views_of_grid(latents), latents.shape[1] * latents.shape[3]
            latents = latents.transpose(1, 2).flatten(2, 3)
            args, kwargs = with_argument(args, kwargs, "hidden_states", 0, latents)
        else:
            frames = latents.shape[2]
            views = self.views_of_video(frames, latents.shape)
        times, patch = frames // views, self.model.config.patch_size
        if times % patch[0]:
            raise ValueError(
                f"hidden_states: got {times} timesteps, expected a multiple of the temporal patch size {patch[0]}"
            )
        height, width = latents.shape[-2] // patch[1], latents.shape[-1] // patch[2]
        self.sizes = GridSizes(views, times // patch[0], height, width, gridded)
        return args, kwargs

    def angles(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> GridAngles | StreamAngles:
        batch, channels, _, height, width = hidden_states.shape
        patch = self.model.config.patch_size[0]

        def video(frames: int) -> tuple[Tensor, Tensor]:
            if frames > self.model.rope.max_seq_len:
                raise ValueError(
                    f"hidden_states: got a grid of {frames} positions in time, expected at most the "
                    f"{self.model.rope.max_seq_len} of the model's rotary embedding (rope_max_seq_len); use fewer "
                    "views or timesteps, or a smaller max_times"
                )
            shaped = hidden_states.new_empty(()).expand(batch, channels, frames * patch, height, width)
            cos, sin = self.rope_forward(shaped)
            # The model stores each angle twice, once per channel of a pair.
            return tuple(x[:, :, 0, 0::2].unflatten(1, (frames, -1)) for x in (cos, sin))

        return self.grid_angles(video)

    def to_grid(self, sample: Tensor) -> Tensor:
        return sample.unflatten(2, (self.sizes.views, -1)).transpose(1, 2)


class WanGridProcessor:
    """Attention processor for the self-attention of Wan, in place of ``WanAttnProcessor``.

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
        """Self-attention of ``(B, V*T*N, C)`` tokens along the axes of ``rotary_emb``."""
        if attention_mask is not None:
            raise NotImplementedError("attention_mask: got a mask, expected None; remove_from(model) takes masks again")
        q, k, v = self._qkv(attn, hidden_states, rotary_emb)
        if torch.is_grad_enabled():
            q, k = qk_norm_rope(q, k, None, None, rotary_emb.cos, rotary_emb.sin)
        else:
            qk_norm_rope_(q, k, None, None, rotary_emb.cos, rotary_emb.sin)
        out = axis_attention(q, k, v, rotary_emb.axes, backend=self.backend)
        return attn.to_out[1](attn.to_out[0](out.flatten(4).flatten(1, 3)))

    def _qkv(self, attn: nn.Module, x: Tensor, grid: GridAngles) -> tuple[Tensor, Tensor, Tensor]:
        if attn.fused_projections:
            q, k, v = attn.to_qkv(x).chunk(3, dim=-1)
        else:
            q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
        # Under autocast the norms give float32.
        q, k = attn.norm_q(q).to(v.dtype), attn.norm_k(k).to(v.dtype)
        return tuple(x.unflatten(1, (grid.views, grid.times, -1)).unflatten(-1, (attn.heads, -1)) for x in (q, k, v))
