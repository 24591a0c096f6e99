"""What the video transformers of diffusers have in common: blocks on flattened tokens and a rotary embedding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .grid_angles import GridAngles, GridSizes, OfVideo, StreamAngles, grid_angles
from .installation import Installation
from .options import Options
from .streams import SequentialForward, TwoStreamForward
from .sync_layers import SyncLayers

GRID_HELP = (
    "pass latents (B, V, C, T, H, W), or apply_to(model, mode, views=V) and the V * T frames as one video, all "
    "timesteps of view 0 first"
)


class VideoTransformer(ABC):
    """The changes to one model.

    The model's own forward runs once on all frames of the grid. A hook before it takes the latents to the model's
    layout, the model's rotary embedding answers with :class:`GridAngles`, which the blocks hand to the attention
    processor, and a hook after it takes the result back.

    Args:
        model: the model.
        options: of ``apply_to``.
    """

    modes = ("time", "sequential", "fused", "two_stream")

    def __init__(self, model: nn.Module, options: Options):
        self.model = model
        self.options = options
        # None where the caller of the model makes the rotary embedding.
        self.rope_forward = model.rope.forward if hasattr(model, "rope") else None
        # Set by the hook before the model's forward, for the rotary embedding and the hook after it.
        self.sizes: GridSizes | None = None

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""

    @property
    @abstractmethod
    def tokens_weight(self) -> Tensor:
        """A weight ``(C, ...)`` whose dtype and device are those of the tokens."""

    @property
    @abstractmethod
    def processor(self) -> Callable:
        """The attention processor for the self-attention of a block."""

    @abstractmethod
    def before(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Forward pre-hook: latents of a grid to what the model takes; sets ``sizes``."""

    @abstractmethod
    def angles(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> GridAngles | StreamAngles:
        """Replaces the forward of the model's rotary embedding, where it has one."""

    @abstractmethod
    def to_grid(self, sample: Tensor) -> Tensor:
        """The model's result as ``(B, V, C, T, H, W)``."""

    @staticmethod
    @abstractmethod
    def temb_of(temb: Tensor) -> Tensor:
        """A block's time modulation as ``(B, temb_dim)``, or ``(B, L, temb_dim)`` when each token has its own."""

    def streams_of(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the view stream and the time stream start from, by the tokens that the first block gets."""
        return tokens, tokens

    @property
    def temb_dim(self) -> int:
        """Width of what :meth:`temb_of` gives."""
        return 6 * self.tokens_weight.shape[0]

    def attention_of(self, block: nn.Module) -> nn.Module:
        """The self-attention of a block."""
        return block.attn1

    def install(self, installation: Installation) -> None:
        """Make the changes."""
        installation.add_hook(self.model.register_forward_pre_hook(self.before, with_kwargs=True))
        installation.add_hook(self.model.register_forward_hook(self.after))
        if self.rope_forward is not None:
            installation.set_forward(self.model.rope, self.angles)
        for block in self.blocks:
            installation.set_processor(self.attention_of(block), self.processor)
        self.install_blocks(installation)

    def install_blocks(self, installation: Installation) -> None:
        """Replace the forward of the blocks in the modes that run them on two axes."""
        if self.options.mode == "sequential":
            for block in self.blocks:
                installation.set_forward(block, SequentialForward(block.forward).run)
        if self.options.mode == "two_stream":
            self.install_streams(installation, TwoStreamForward)

    def install_streams(self, installation: Installation, forward_type: type[TwoStreamForward]) -> None:
        """Freeze the model, add the synchronisation layers and run the blocks on two streams."""
        options, like = self.options, self.tokens_weight
        sync = SyncLayers(
            options.sync, len(self.blocks), like.shape[0], self.temb_dim, options.sync_cond_dim,
            options.sync_per_channel,
        )
        installation.freeze()
        installation.add_sync(sync.to(like.device, like.dtype))
        for index, block in enumerate(self.blocks):
            forward = forward_type(block.forward, sync, index, options.output, self.temb_of, self.streams_of)
            installation.set_forward(block, forward.run)

    def after(self, model: nn.Module, args: tuple, output: Any) -> Any:
        """Forward hook: the result has the layout of the latents."""
        if isinstance(output, tuple):
            return (self.as_given(output[0]), *output[1:])
        output.sample = self.as_given(output.sample)
        return output

    def as_given(self, sample: Tensor) -> Tensor:
        """The model's result in the layout of the latents: that of a grid is a grid."""
        return self.to_grid(sample) if self.sizes.gridded else sample

    def views_of_grid(self, latents: Tensor) -> int:
        """V of 6-D latents.

        Raises:
            ValueError: ``apply_to`` was told another number.
        """
        if self.options.views not in (None, latents.shape[1]):
            raise ValueError(
                f"hidden_states: got {latents.shape[1]} views in shape {tuple(latents.shape)}, expected views="
                f"{self.options.views} as apply_to was told; {GRID_HELP}"
            )
        return latents.shape[1]

    def views_of_video(self, frames: int, shape: tuple[int, ...]) -> int:
        """V of latents whose views are one after the other along the frames.

        Raises:
            ValueError: V is not known, or does not divide the number of frames.
        """
        views = 1 if self.options.mode == "time" and self.options.views is None else self.options.views
        if views is None:
            raise ValueError(
                f"hidden_states: got shape {tuple(shape)} and no number of views, which mode "
                f"{self.options.mode!r} needs; {GRID_HELP}"
            )
        if frames % views:
            raise ValueError(
                f"hidden_states: got {frames} frames in shape {tuple(shape)}, expected a multiple of views={views}; "
                f"{GRID_HELP}"
            )
        return views

    def grid_angles(self, video: OfVideo | None) -> GridAngles | StreamAngles:
        """The angles for the mode and the sizes of this call."""
        return grid_angles(self.options.mode, self.sizes, self.options.max_times, video)


def argument(args: tuple, kwargs: dict, name: str, position: int) -> Any:
    """An argument of a call, given by position or by name."""
    if name in kwargs:
        return kwargs[name]
    if position < len(args):
        return args[position]
    raise TypeError(f"{name}: missing argument of the model's forward; {GRID_HELP}")


def with_argument(args: tuple, kwargs: dict, name: str, position: int, value: Any) -> tuple[tuple, dict]:
    """The call with another value of an argument."""
    if name in kwargs or position >= len(args):
        return args, {**kwargs, name: value}
    return (*args[:position], value, *args[position + 1 :]), kwargs
