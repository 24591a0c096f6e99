"""What ``fourreal tune`` measures of attention: the views of 8 x 8 frames, pointwise along 8 views."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..triton_cases import TuneTask
from ..triton_support import INTERPRETER
from ..triton_tuning import Typical, device, tasks

_FRAMES = 8
_CHANNELS = 1024
_POINTWISE_TOKENS = 576
# Small enough for the interpreter, where the tests call these workloads.
_TINY = Typical(head_dim=16, length=16)
_TYPICAL = Typical(head_dim=64, length=_FRAMES * 576)
_OPERATORS = torch.ops.fourreal_kernels


def tuning_candidates(arch: str) -> list[TuneTask]:
    """A task per kernel and bucket; a length is the number of queries that share their keys."""
    sizes = (_TINY, 2, 1, 16, 3) if arch == INTERPRETER else (_TYPICAL, _FRAMES, _FRAMES, _CHANNELS, _POINTWISE_TOKENS)
    typical, views, times, channels, pointwise_tokens = sizes

    def view(head_dim: int, length: int) -> tuple[int, ...]:
        return 1, views, times, max(1, length // views), max(1, channels // head_dim), head_dim

    def pointwise(head_dim: int, length: int) -> tuple[int, ...]:
        return 1, views, times, pointwise_tokens, max(1, channels // head_dim), head_dim

    workloads = {
        "attention_forward": (_forward, "vn", view),
        "attention_two_streams": (_two_streams, "vn", view),
        "attention_backward_rows": (_backward, "vn", view),
        "attention_backward_keys": (_backward, "vn", view),
        "attention_backward_queries": (_backward, "vn", view),
        "pointwise_forward": (_forward, "v", pointwise),
        "pointwise_backward": (_backward, "v", pointwise),
    }
    return [
        task for kernel, (run, axes, shape) in workloads.items()
        for task in tasks(kernel, arch, lambda d, n, x, a=(run, axes, shape): a[0](a[1], a[2](d, n), x), typical)
    ]


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(shape, device=device()).to(dtype) for _ in range(3)]


def _forward(axes: str, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
    inputs, scale = _inputs(shape, dtype), shape[-1] ** -0.5
    return lambda: _OPERATORS.axis_attention(*inputs, axes, scale, False, "triton")


def _two_streams(axes: str, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
    streams, scale = [*_inputs(shape, dtype), *_inputs(shape, dtype)], shape[-1] ** -0.5
    return lambda: _OPERATORS.two_stream_attention(*streams, scale, "triton")


def _backward(axes: str, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
    inputs, scale = _inputs(shape, dtype), shape[-1] ** -0.5
    grad = torch.randn(shape, device=device()).to(dtype)
    out, lse = _OPERATORS.axis_attention(*inputs, axes, scale, False, "triton")
    return lambda: _OPERATORS.axis_attention_backward(grad, None, *inputs, out, lse, axes, scale, False, "triton")
