"""Transformer blocks on two axes: one stream after the other axis, or two streams with a synchronisation layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from .grid_angles import StreamAngles
from .sync_layers import SyncLayers

Forward = Callable[..., Tensor]


class Streams(NamedTuple):
    """What two-stream blocks hand on in place of the tokens: both streams and the conditioning of the sync layers."""

    view: Tensor
    time: Tensor
    cond: Tensor


class StreamTexts(NamedTuple):
    """The text tokens of view attention ``(B, T*L, C)`` and of time attention ``(B, V*L, C)``, for joint attention."""

    view: Tensor
    time: Tensor


class SequentialForward:
    """The forward of a block in ``mode="sequential"``: with view attention, then with time attention.

    Args:
        forward: the block's own.
    """

    def __init__(self, forward: Forward):
        self.forward = forward

    def run(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``(B, L, C)`` to ``(B, L, C)``; the other arguments are those of the block."""
        for stream in ("view", "time"):
            hidden_states = on_stream(self.forward, stream, hidden_states, args, kwargs)
        return hidden_states


class TwoStreamForward:
    """The forward of a block in ``mode="two_stream"``: on both streams with the same weights, then the sync layer.

    The first block gets tokens, from which both streams start; the last one gives back tokens.

    Args:
        forward: the block's own.
        sync: the layers of the model.
        index: of the block.
        output: what the last block gives: ``"mean"``, ``"view"`` or ``"time"``.
        temb_of: takes the block's time modulation to ``(B, temb_dim)`` or ``(B, L, temb_dim)``.
        streams_of: takes the tokens of the first block to those of the view stream and those of the time stream.
    """

    def __init__(
        self, forward: Forward, sync: SyncLayers, index: int, output: str, temb_of: Callable, streams_of: Callable
    ):
        self.forward = forward
        self.sync = sync
        self.index = index
        self.output = output
        self.temb_of = temb_of
        self.streams_of = streams_of

    def run(
        self, hidden_states: Tensor | Streams, encoder_hidden_states: Tensor, temb: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor | Streams:
        """Tokens ``(B, L, C)`` or :class:`Streams` to the same; the other arguments are those of the block."""
        hidden_states = self.started(hidden_states, temb)
        others = (encoder_hidden_states, temb, *args)
        view = on_stream(self.forward, "view", hidden_states.view, others, kwargs)
        time = on_stream(self.forward, "time", hidden_states.time, others, kwargs)
        return self.exchange(view, time, hidden_states.cond)

    def started(self, hidden_states: Tensor | Streams, temb: Tensor) -> Streams:
        """The streams that the block before gave, or, in the first block, those that start from the tokens."""
        if isinstance(hidden_states, Streams):
            return hidden_states
        return Streams(*self.streams_of(hidden_states), self.sync.conditioning(self.temb_of(temb)))

    def exchange(self, view: Tensor, time: Tensor, cond: Tensor) -> Tensor | Streams:
        """The synchronisation layer, then what the next block or, after the last one, the model gets."""
        view, time = self.sync.exchange(self.index, view, time, cond)
        if self.index < len(self.sync.layers) - 1:
            return Streams(view, time, cond)
        return {"view": view, "time": time}[self.output] if self.output != "mean" else (view + time) / 2


def on_stream(forward: Callable, stream: str, hidden_states: Tensor, args: tuple, kwargs: dict) -> Any:
    """The block's forward with what is of one stream wherever the model passes that of both."""

    def pick(x: Any) -> Any:
        return getattr(x, stream) if isinstance(x, StreamAngles | StreamTexts) else x

    return forward(hidden_states, *map(pick, args), **{name: pick(x) for name, x in kwargs.items()})
