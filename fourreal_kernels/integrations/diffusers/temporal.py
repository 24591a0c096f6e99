"""Temporal attention of SVD (``UNetSpatioTemporalConditionModel``) and AnimateDiff (``UNetMotionModel``).

Each spatial position attends along the timesteps: axes ``"t"``. The results are those of the untouched models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from ...ops.axis_attention.api import axis_attention
from .installation import Installation
from .options import Options


class TemporalUNet:
    """The changes to one UNet of videos; only mode ``"time"``, and the model is called as before.

    Args:
        model: the model.
        options: of ``apply_to``.

    Raises:
        ValueError: ``views`` is given.
    """

    modes = ("time",)

    def __init__(self, model: nn.Module, options: Options):
        if options.views is not None:
            raise ValueError(
                f"views: got {options.views}, expected None: {type(model).__name__} takes videos; pass the views of a "
                "grid as samples"
            )
        self.model = model
        self.backend = options.backend

    def install(self, installation: Installation) -> None:
        """Make the changes."""
        installation.add_hook(self.model.register_forward_pre_hook(_refuse_grids, with_kwargs=True))
        for block in self.blocks():
            for attention in self.attentions(block):
                processor = PointwiseProcessor(attention.processor, self.backend)
                installation.set_processor(attention, processor)

    def blocks(self) -> Iterator[nn.Module]:
        """Blocks whose self-attention is along the timesteps."""
        raise NotImplementedError

    def attentions(self, block: nn.Module) -> list[nn.Module]:
        """The self-attention layers of a block."""
        raise NotImplementedError


class AnimateDiffTime(TemporalUNet):
    """The motion modules of ``UNetMotionModel``."""

    def blocks(self) -> Iterator[nn.Module]:
        for module in _named(self.model, "AnimateDiffTransformer3D"):
            yield from module.transformer_blocks

    def attentions(self, block: nn.Module) -> list[nn.Module]:
        return [block.attn1] if block.attn2 is None else [block.attn1, block.attn2]


class SpatioTemporalTime(TemporalUNet):
    """The temporal blocks of ``UNetSpatioTemporalConditionModel``, which need not move positions before timesteps."""

    def install(self, installation: Installation) -> None:
        super().install(installation)
        for block in self.blocks():
            installation.set_forward(block, TemporalForward(block).run)

    def blocks(self) -> Iterator[nn.Module]:
        return _named(self.model, "TemporalBasicTransformerBlock")

    def attentions(self, block: nn.Module) -> list[nn.Module]:
        return [block.attn1]


class PointwiseProcessor:
    """Attention processor for self-attention along timesteps, in place of ``AttnProcessor2_0``.

    Args:
        original: the processor that takes calls with a context or a mask.
        backend: of :func:`fourreal_kernels.axis_attention`.
    """

    def __init__(self, original: Callable, backend: str | None = None):
        self.original = original
        self.backend = backend

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Sequences ``(positions, T, C)`` or frames ``(B, T, N, C)`` to the same."""
        if encoder_hidden_states is not None or attention_mask is not None:
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **kwargs)
        q, k, v = (
            _as_grid(project(hidden_states)).unflatten(-1, (attn.heads, -1))
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        out = axis_attention(q, k, v, "t", backend=self.backend).flatten(-2)[:, 0]
        out = out[0].transpose(0, 1) if hidden_states.ndim == 3 else out
        return attn.to_out[1](attn.to_out[0](out))


def _as_grid(x: Tensor) -> Tensor:
    """``(B, V, T, N, C)`` with V = 1, as a view."""
    return x.transpose(0, 1)[None, None] if x.ndim == 3 else x[:, None]


class TemporalForward:
    """The forward of a ``TemporalBasicTransformerBlock`` on frames as they lie in memory.

    The block's own moves ``(B*T, N, C)`` to ``(B*N, T, C)`` and back, and gives every position a copy of the context.

    Args:
        block: the block, whose ``attn1`` has a :class:`PointwiseProcessor`.
    """

    def __init__(self, block: nn.Module):
        self.block = block

    def run(self, hidden_states: Tensor, num_frames: int, encoder_hidden_states: Tensor | None = None) -> Tensor:
        """``(B*T, N, C)`` to the same.

        Args:
            hidden_states: all frames of a video one after the other.
            num_frames: T.
            encoder_hidden_states: ``(B*N, L, C')``, the same for all positions of a sample.
        """
        block = self.block
        x = hidden_states.unflatten(0, (-1, num_frames))
        moved = self._feed_forward(block.ff_in, block.norm_in(x))
        x = moved + x if block.is_res else moved
        x = block.attn1(block.norm1(x)) + x
        if block.attn2 is not None:
            context = encoder_hidden_states.unflatten(0, (x.shape[0], -1))[:, 0]
            attended = block.attn2(block.norm2(x).flatten(1, 2), encoder_hidden_states=context)
            x = attended.unflatten(1, x.shape[1:3]) + x
        moved = self._feed_forward(block.ff, block.norm3(x))
        x = moved + x if block.is_res else moved
        return x.flatten(0, 1)

    def _feed_forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self.block._chunk_size is None:
            return layer(x)
        from diffusers.models.attention import _chunked_feed_forward

        return _chunked_feed_forward(layer, x, self.block._chunk_dim, self.block._chunk_size)


def _refuse_grids(model: nn.Module, args: tuple, kwargs: dict) -> None:
    sample = args[0] if args else kwargs.get("sample")
    if sample is not None and sample.ndim != 5:
        raise ValueError(
            f"sample: got {sample.ndim} dims with shape {tuple(sample.shape)}, expected videos of 5 dims as before "
            "apply_to; the temporal attention sees single videos: pass the views of a grid as samples, (B * V, ...)"
        )


def _named(model: nn.Module, name: str) -> Iterator[nn.Module]:
    return (module for module in model.modules() if type(module).__name__ == name)
