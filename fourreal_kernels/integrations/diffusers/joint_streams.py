"""Blocks in which text and video tokens attend to one another, on several lines of the grid.

Attention along one axis sees each line (a view with all its timesteps, or a timestep with all its views) as a video of
its own, and the model changes the text of each video by what it attends to: every line has a copy of the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .grid_angles import GridAngles, StreamAngles
from .streams import Streams, StreamTexts, TwoStreamForward, on_stream

# Video tokens (B, V*T*N, C) and text tokens (B, lines*L, C).
Forward = Callable[..., tuple[Tensor, Tensor]]


class FirstTimeForward:
    """The forward of the first block in ``mode="time"``: the text is copied, one for each view.

    Args:
        forward: the block's own.
    """

    def __init__(self, forward: Forward):
        self.forward = forward

    def run(self, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Video ``(B, V*T*N, C)`` and text ``(B, L, C)`` to video and text ``(B, V*L, C)``."""
        text = encoder_hidden_states.repeat(1, _angles(args, kwargs).views, 1)
        return self.forward(hidden_states, text, *args, **kwargs)


class JointSequentialForward:
    """The forward of a block in ``mode="sequential"``: with view attention, then with time attention.

    The video goes through both, each copy of the text only through the attention of its line.

    Args:
        forward: the block's own.
    """

    def __init__(self, forward: Forward):
        self.forward = forward

    def run(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | StreamTexts, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, StreamTexts]:
        """Video ``(B, V*T*N, C)`` and text, ``(B, L, C)`` for the first block, to video and :class:`StreamTexts`."""
        texts = _both_texts(encoder_hidden_states, args, kwargs)
        hidden_states, view = on_stream(self.forward, "view", hidden_states, (texts, *args), kwargs)
        hidden_states, time = on_stream(self.forward, "time", hidden_states, (texts, *args), kwargs)
        return hidden_states, StreamTexts(view, time)


class JointTwoStreamForward(TwoStreamForward):
    """The forward of a block in ``mode="two_stream"``; the synchronisation layer exchanges video tokens alone."""

    def run(
        self, hidden_states: Tensor | Streams, encoder_hidden_states: Tensor | StreamTexts, temb: Tensor, *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor | Streams, StreamTexts]:
        """Video ``(B, V*T*N, C)`` and text ``(B, L, C)``, or what the block before gave, to the same."""
        texts = _both_texts(encoder_hidden_states, args, kwargs)
        hidden_states = self.started(hidden_states, temb)
        others = (texts, temb, *args)
        view, view_text = on_stream(self.forward, "view", hidden_states.view, others, kwargs)
        time, time_text = on_stream(self.forward, "time", hidden_states.time, others, kwargs)
        return self.exchange(view, time, hidden_states.cond), StreamTexts(view_text, time_text)


def _both_texts(text: Tensor | StreamTexts, args: tuple, kwargs: dict) -> StreamTexts:
    if isinstance(text, StreamTexts):
        return text
    grid = _angles(args, kwargs).view
    return StreamTexts(text.repeat(1, grid.times, 1), text.repeat(1, grid.views, 1))


def _angles(args: tuple, kwargs: dict) -> GridAngles | StreamAngles:
    """The angles, wherever the model passes its rotary embedding to a block."""
    return next(x for x in (*args, *kwargs.values()) if isinstance(x, GridAngles | StreamAngles))
