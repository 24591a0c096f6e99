"""LTX-Video (``LTXVideoTransformer3DModel``)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...nn.norm_rope import norm_rope
from .grid_angles import GridAngles, GridSizes, StreamAngles
from .self_attention import SelfAttentionProcessor
from .transformers import GRID_HELP, VideoTransformer, argument, with_argument

_POSITIONS = {"num_frames": 4, "height": 5, "width": 6}


class LTXGrid(VideoTransformer):
    """The changes to one ``LTXVideoTransformer3DModel``.

    Latents are the tokens ``(B, F*H*W, C)`` of the pipeline with ``num_frames``, ``height`` and ``width``, or a grid
    ``(B, V, C, T, H, W)``, which is packed into tokens as the pipeline does and needs no sizes.
    """

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.transformer_blocks

    @property
    def tokens_weight(self) -> Tensor:
        return self.model.proj_in.weight

    @property
    def processor(self) -> LTXGridProcessor:
        return LTXGridProcessor(self.options.backend)

    @staticmethod
    def temb_of(temb: Tensor) -> Tensor:
        return temb

    def before(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        latents = argument(args, kwargs, "hidden_states", 0)
        if latents.ndim == 6:
            return self._pack(latents, args, kwargs)
        if latents.ndim != 3:
            raise ValueError(
                f"hidden_states: got {latents.ndim} dims with shape {tuple(latents.shape)}, expected packed tokens "
                f"(B, F*H*W, C) with num_frames, height and width, or a grid; {GRID_HELP}"
            )
        frames, height, width = (argument(args, kwargs, name, position) for name, position in _POSITIONS.items())
        if frames is None:
            raise ValueError(f"num_frames: got None for packed tokens, expected the number of frames; {GRID_HELP}")
        views = self.views_of_video(frames, latents.shape)
        self.sizes = GridSizes(views, frames // views, height, width, False)
        return args, kwargs

    def _pack(self, latents: Tensor, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        views = self.views_of_grid(latents)
        patch, patch_time = self._patches
        for name, size, factor in zip(("T", "H", "W"), latents.shape[3:], (patch_time, patch, patch), strict=True):
            if size % factor:
                raise ValueError(f"hidden_states: got {name}={size}, expected a multiple of the patch size {factor}")
        batch, _, channels, times, height, width = latents.shape
        sizes = (times // patch_time, height // patch, width // patch)
        self.sizes = GridSizes(views, *sizes, True)
        split = latents.reshape(batch, views, channels, sizes[0], patch_time, sizes[1], patch, sizes[2], patch)
        tokens = split.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).flatten(5).flatten(1, 4)
        args, kwargs = with_argument(args, kwargs, "hidden_states", 0, tokens)
        for name, value in zip(_POSITIONS, (views * sizes[0], *sizes[1:]), strict=True):
            args, kwargs = with_argument(args, kwargs, name, _POSITIONS[name], value)
        return args, kwargs

    def angles(
        self, hidden_states: Tensor, num_frames: int | None = None, height: int | None = None,
        width: int | None = None, rope_interpolation_scale: Any = None, video_coords: Tensor | None = None,
    ) -> GridAngles | StreamAngles:
        if video_coords is not None:
            raise NotImplementedError(
                "video_coords: got coordinates of every token, expected None: positions in a grid are made from "
                "num_frames, height and width; remove_from(model) takes the grid out"
            )

        def video(frames: int) -> tuple[Tensor, Tensor]:
            angles = self.rope_forward(hidden_states[:1], frames, height, width, rope_interpolation_scale)
            # The model stores each angle twice, once per channel of a pair.
            return tuple(x[..., 0::2].unflatten(1, (frames, -1)) for x in angles)

        return self.grid_angles(video)

    def to_grid(self, sample: Tensor) -> Tensor:
        patch, patch_time = self._patches
        sizes = self.sizes
        split = sample.unflatten(1, (sizes.views, sizes.times, sizes.height, sizes.width))
        split = split.unflatten(-1, (-1, patch_time, patch, patch))
        return split.permute(0, 1, 5, 2, 6, 3, 7, 4, 8).flatten(7, 8).flatten(5, 6).flatten(3, 4)

    @property
    def _patches(self) -> tuple[int, int]:
        return self.model.config.patch_size, self.model.config.patch_size_t


class LTXGridProcessor(SelfAttentionProcessor):
    """In place of ``LTXVideoAttnProcessor`` in the self-attention of LTX-Video.

    The model normalises and rotates all heads together, so that each head has angles of its own.
    """

    def project(self, attn: nn.Module, x: Tensor, grid: GridAngles) -> tuple[Tensor, Tensor, Tensor]:
        projections = (attn.to_q, attn.to_k, attn.to_v)
        q, k, v = (project(x).unflatten(1, (grid.views, grid.times, -1)) for project in projections)
        # Both in one pass over (B, V, T, N, C), as one head of C channels.
        weights = (attn.norm_q.weight.to(q.dtype), attn.norm_k.weight.to(q.dtype))
        q, k = norm_rope(q.unsqueeze(-2), k.unsqueeze(-2), *weights, grid.cos, grid.sin, attn.norm_q.eps)
        return tuple(x.unflatten(-1, (attn.heads, -1)) for x in (q.squeeze(-2), k.squeeze(-2), v))
