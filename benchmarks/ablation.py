"""Switches off parts of a two-stream model, to see what they add to its predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor

from fourreal_kernels.model import GridTransformer

PARTS = ("attention along views", "attention along time", "attention", "synchronisation", "transformer")


@contextmanager
def without(model: GridTransformer, part: str | None) -> Iterator[None]:
    """Inside, ``model``, which has two streams, runs without the part; with all of them when None.

    Attention adds nothing to the stream (or to both), streams go past the synchronisation layers, or the head gets
    zeros for what it takes from the tokens.
    """
    patched = list(_patched(model, part)) if part is not None else []
    with ExitStack() as stack:
        for patch in patched:
            stack.enter_context(patch)
        yield


def _patched(model: GridTransformer, part: str) -> Iterator[mock._patch]:
    if part == "transformer":
        yield mock.patch.object(model.head.pixels, "forward", _zeros_like(model.head.pixels.forward))
    elif part == "synchronisation":
        for sync in model.sync:
            yield mock.patch.object(sync, "forward", lambda view, time, cond=None, inplace=False: (view, time))
    else:
        kept = {"attention along views": (0.0, 1.0), "attention along time": (1.0, 0.0), "attention": (0.0, 0.0)}[part]
        for block in model.blocks:
            yield mock.patch.object(block.attention, "two_stream", _scaled(block.attention.two_stream, kept))


def _zeros_like(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: torch.zeros_like(forward(*args))


def _scaled(two_stream: Callable[..., tuple[Tensor, Tensor]], factors: tuple[float, float]) -> Callable:
    return lambda *args: tuple(factor * out for factor, out in zip(factors, two_stream(*args), strict=True))
