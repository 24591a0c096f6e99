"""Attention processor for blocks in which text and video tokens share one softmax."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ...grid import TIME, VIEW, VIEW_OR_TIME
from ...nn.norm_rope import norm_rope
from ...ops.axis_attention.api import axis_attention
from .grid_angles import GridAngles


class JointProcessor:
    """In place of ``CogVideoXAttnProcessor2_0`` and ``HunyuanVideoAttnProcessor2_0``.

    Text and video of a line become one sequence, as in the model. On lines every token attends to all of its sequence.
    In fused attention the text is the ``extra_k`` and ``extra_v`` of every video token, and its own queries see the
    whole grid and the text. The slices of the sequence are strided views.

    Args:
        backend: of :func:`fourreal_kernels.axis_attention`.
        obeys_fusion: whether the model's own processor uses ``to_qkv`` after ``fuse_qkv_projections``.
    """

    def __init__(self, backend: str | None = None, obeys_fusion: bool = False):
        self.backend = backend
        self.obeys_fusion = obeys_fusion

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: GridAngles | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Video ``(B, V*T*N, C)`` and text ``(B, lines*L, C)`` to the same.

        Args:
            attn: the attention module.
            hidden_states: video tokens.
            encoder_hidden_states: text tokens: a copy for each view in time attention, for each timestep in view
                attention, one in fused attention.
            attention_mask: not used: the changes to the model refuse masks or drop the tokens that are masked.
            image_rotary_emb: the axes, and the angles ``(1, 1, 1, L + tokens of a line, D / 2)``,
                if any.
        """
        grid, batch = image_rotary_emb, len(hidden_states)
        q, k, v = self._project(attn, hidden_states, encoder_hidden_states, grid)
        q, k = norm_rope(q, k, None, None, grid.cos, grid.sin)
        text = encoder_hidden_states.shape[1] // _lines(grid)
        text_out, video_out = self._attend(q, k, v, text, grid)
        # First back among the frames: a projection of what is not in one piece copies it once more.
        video_out = _from_lines(video_out.flatten(-2), batch, grid)
        text_out = text_out.flatten(-2).unflatten(0, (batch, -1)).flatten(1, 2)
        return _project_out(attn, video_out, text_out)

    def _project(
        self, attn: nn.Module, video: Tensor, text: Tensor, grid: GridAngles
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of the lines, ``(B * lines, 1, 1, L + tokens of a line, H, D)``."""

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1))

        if attn.add_q_proj is None:
            joint = _on_lines(video, text, grid)
            if self.obeys_fusion and attn.fused_projections:
                q, k, v = map(heads, attn.to_qkv(joint).chunk(3, dim=-1))
            else:
                q, k, v = (heads(project(joint)) for project in (attn.to_q, attn.to_k, attn.to_v))
            q, k = _norm(attn.norm_q, q, v.dtype), _norm(attn.norm_k, k, v.dtype)
        else:
            q, k, v = (heads(project(video)) for project in (attn.to_q, attn.to_k, attn.to_v))
            text_q, text_k, text_v = (
                heads(project(text)) for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            )
            q, k = _norm(attn.norm_q, q, v.dtype), _norm(attn.norm_k, k, v.dtype)
            text_q, text_k = _norm(attn.norm_added_q, text_q, v.dtype), _norm(attn.norm_added_k, text_k, v.dtype)
            q, k, v = (_on_lines(x, y, grid) for x, y in ((q, text_q), (k, text_k), (v, text_v)))
        return q[:, None, None], k[:, None, None], v[:, None, None]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, text: int, grid: GridAngles) -> tuple[Tensor, Tensor]:
        """Text ``(B * lines, L, H, D)`` and video ``(B * lines, tokens of a line, H, D)``."""
        if grid.axes != VIEW_OR_TIME:
            out = axis_attention(q, k, v, "n", backend=self.backend)[:, 0, 0]
            return out[:, :text], out[:, text:]
        q, k, v = (x[:, 0, 0] for x in (q, k, v))
        video = (x[:, text:].unflatten(1, (grid.views, grid.times, -1)) for x in (q, k, v))
        out = axis_attention(*video, grid.axes, extra_k=k[:, :text], extra_v=v[:, :text], backend=self.backend)
        text_out = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q[:, :text], k, v)))
        return text_out.transpose(1, 2), out.flatten(1, 3)


def _lines(grid: GridAngles) -> int:
    """How many sequences the attention has per sample."""
    return {TIME: grid.views, VIEW: grid.times, VIEW_OR_TIME: 1}[grid.axes]


def _on_lines(video: Tensor, text: Tensor, grid: GridAngles) -> Tensor:
    """Video ``(B, V*T*N, ...)`` and text ``(B, lines*L, ...)`` to ``(B * lines, L + tokens of a line, ...)``."""
    lines = _lines(grid)
    text = text.unflatten(1, (lines, -1))
    if grid.axes == VIEW:
        # One part for each view, so that the concatenation is the only copy.
        parts = video.unflatten(1, (grid.views, grid.times, -1)).unbind(1)
    else:
        parts = (video.unflatten(1, (lines, -1)),)
    return torch.cat([text, *parts], dim=2).flatten(0, 1)


def _from_lines(video: Tensor, batch: int, grid: GridAngles) -> Tensor:
    """Video ``(B * lines, tokens of a line, C)`` to ``(B, V*T*N, C)``."""
    video = video.unflatten(0, (batch, -1))
    if grid.axes == VIEW:
        video = video.unflatten(2, (grid.views, -1)).transpose(1, 2)
        return video.flatten(1, 3)
    return video.flatten(1, 2)


def _norm(norm: nn.Module | None, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The model's norm of q or k; under autocast it gives float32."""
    return x if norm is None else norm(x).to(dtype)


def _project_out(attn: nn.Module, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """The output projections that the attention has: one, one for each, or none."""
    projection = getattr(attn, "to_out", None)
    if projection is None:
        return video, text
    added = getattr(attn, "to_add_out", None)
    text = projection[1](projection[0](text)) if added is None else added(text)
    return projection[1](projection[0](video)), text
