"""Wan (``WanTransformer3DModel``)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...nn.norm_rope import norm_rope
from .grid_angles import GridAngles, GridSizes, StreamAngles
from .self_attention import SelfAttentionProcessor
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


class WanGridProcessor(SelfAttentionProcessor):
    """In place of ``WanAttnProcessor`` in the self-attention of Wan."""

    def project(self, attn: nn.Module, x: Tensor, grid: GridAngles) -> tuple[Tensor, Tensor, Tensor]:
        if attn.fused_projections:
            q, k, v = attn.to_qkv(x).chunk(3, dim=-1)
        else:
            q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
        # Under autocast the norms give float32.
        q, k = attn.norm_q(q).to(v.dtype), attn.norm_k(k).to(v.dtype)
        q, k, v = (x.unflatten(1, (grid.views, grid.times, -1)).unflatten(-1, (attn.heads, -1)) for x in (q, k, v))
        return *norm_rope(q, k, None, None, grid.cos, grid.sin), v
