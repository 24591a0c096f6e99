"""From axes and tensors to the compile-time arguments of the attention kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...grid import Axes
from ..triton_access import power_of_two

_INT32_RANGE = 2**31
_FRAMES = {(): "own", ("v",): "views", ("t",): "views", ("v", "t"): "all"}


@dataclass(frozen=True)
class Relation:
    """Which frames a query attends to, as :mod:`triton_frames` names them.

    ``exchanged``: the kernel sees views and timesteps exchanged. ``tokens``: all tokens of the frames, not the own one.
    """

    frames: str
    exchanged: bool
    tokens: bool

    @classmethod
    def of(cls, axes: Axes) -> Relation:
        """The relation of one group of axes, or of the unions ``"vn|tn"`` and ``"v|t"``."""
        tokens = "n" in axes.groups[0]
        if axes.is_union:
            return cls("union", False, tokens)
        frame_axes = tuple(letter for letter in axes.groups[0] if letter != "n")
        return cls(_FRAMES[frame_axes], frame_axes == ("t",), tokens)

    def seen(self, x: Tensor) -> Tensor:
        """``x`` (B, V, T, ...) as the kernel sees it."""
        return x.transpose(1, 2) if self.exchanged else x

    def keys(self, shape: Sequence[int]) -> int:
        """The length of a frame list; ``shape`` as seen."""
        _, views, times, tokens = shape[:4]
        frames = {"own": 1, "union": views + times - 1, "views": views, "all": views * times}[self.frames]
        return frames * (tokens if self.tokens else 1)

    def rows(self, shape: Sequence[int]) -> int:
        """How many queries share one frame list and are packed into tiles: for the union, those of a frame."""
        if self.frames == "union":
            return shape[3] if self.tokens else 1
        return self.keys(shape)

    def programs(self, shape: Sequence[int], block: int) -> int:
        """Tiles of ``block`` queries in the whole grid."""
        rows = self.rows(shape)
        return prod(shape[:5]) // rows * -(-rows // block)

    def walk(
        self, shape: Sequence[int], block: int, listed: Sequence[Tensor], extra: Sequence[Tensor] = ()
    ) -> dict[str, Any]:
        """How the kernels walk a frame list in tiles of ``block`` rows of the tensors ``listed``, as seen.

        ``extra``: tensors (B, L, H, D) walked besides.
        """
        steps = [x.stride(3) for x in listed] + [x.stride(1) for x in extra]
        return {
            "SPAN": self._span(shape, block, [x.stride() for x in listed]),
            "WIDE": any(block * step >= _INT32_RANGE for step in steps),
            "TAIL": self.keys(shape) % block != 0,
        }

    def _span(self, shape: Sequence[int], block: int, listed: Sequence[Sequence[int]]) -> str:
        """How many frames a tile may touch; ``"line"``: the rows of the list are evenly spaced in memory."""
        tokens = shape[3]
        if not self.tokens:
            return "any"
        if all(self._evenly_spaced(shape, strides) for strides in listed):
            return "line"
        if tokens % block == 0:
            return "one"
        return "two" if tokens > block else "any"

    def _evenly_spaced(self, shape: Sequence[int], strides: Sequence[int]) -> bool:
        _, views, times, tokens = shape[:4]
        _, view, time, token = strides[:4]
        if self.frames == "own":
            return True
        if tokens == 1:  # the stride of tokens then says nothing
            return False
        if self.frames == "views":
            return views == 1 or view == tokens * token
        if self.frames == "all":
            return (times == 1 or time == tokens * token) and (views == 1 or view == times * tokens * token)
        return views == 1 and (times == 1 or time == tokens * token)


def joined(walks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The walk that serves several lists of frames of equally many tokens."""
    return {
        "SPAN": max((walk["SPAN"] for walk in walks), key=("line", "one", "two", "any").index),
        "WIDE": any(walk["WIDE"] for walk in walks),
        "TAIL": any(walk["TAIL"] for walk in walks),
    }


def matmul_precision(dtype: torch.dtype) -> str:
    """How fp32 products are formed: torch's own switch of tf32 on CUDA devices decides."""
    if dtype != torch.float32:
        return "ieee"
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        return "tf32" if matmul.fp32_precision == "tf32" else "ieee"
    return "tf32" if matmul.allow_tf32 else "ieee"


def block_of_head_dim(head_dim: int) -> int:
    """The next power of two, and at least what a matrix instruction takes."""
    return max(16, power_of_two(head_dim))


def gradients_of(config: dict[str, int]) -> tuple[str, ...]:
    """The ``GRADIENTS`` of each launch of the dK and dV kernel with a configuration."""
    return ("keys", "values") if config.get("SPLIT") else ("both",)
