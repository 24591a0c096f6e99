"""Axis attention by Triton kernels: true strides, no copies, the union in one softmax.

Written for compute capability 8.0 and newer. The kernels are compiled ahead of time and run under Triton's interpreter
by the tests; ``backend=None`` does not choose them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...grid import Axes
from .. import triton_support
from ..checks import unit_stride_gradient
from .call import AttentionCall

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_UNIONS = ("vn|tn", "v|t")
_LARGEST_HEAD_DIM = 256


def unavailable() -> str | None:
    return triton_support.why_unavailable()


def refusal(call: AttentionCall) -> str | None:
    if reason := triton_support.refuse_device(call):
        return reason
    if call.dtype not in _DTYPES:
        return f"its kernels accumulate in float32, the call is {str(call.dtype).removeprefix('torch.')}"
    if call.shape[-1] > _LARGEST_HEAD_DIM:
        return f"its kernels take head dims up to {_LARGEST_HEAD_DIM}, got {call.shape[-1]}"
    if call.extra:
        return "its kernels take no extra_k and extra_v"
    if call.axes.is_union and str(call.axes) not in _UNIONS:
        return f"of the unions its kernels take {' and '.join(map(repr, _UNIONS))}, the call is {str(call.axes)!r}"
    return None


def _kernels(axes: Axes):
    """The module that serves these axes: sequences as short as V or T have kernels of their own."""
    if axes.is_pointwise:
        from . import triton_pointwise

        return triton_pointwise.forward_pointwise, triton_pointwise.backward_pointwise
    from . import triton_launch

    return triton_launch.forward, triton_launch.backward


def forward(q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``."""
    _kernels(axes)[0](q, k, v, axes, scale, out, lse)


def forward_two_streams(
    view_qkv: tuple[Tensor, Tensor, Tensor], time_qkv: tuple[Tensor, Tensor, Tensor], scale: float,
    view_results: tuple[Tensor, Tensor], time_results: tuple[Tensor, Tensor],
) -> None:
    """Write out and lse of both streams, in one launch."""
    from . import triton_launch

    triton_launch.forward_two_streams((*view_qkv, *view_results), (*time_qkv, *time_results), scale)


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write dq, dk, dv into ``grads``."""
    _kernels(axes)[1](unit_stride_gradient(grad_out), grad_lse, q, k, v, out, lse, axes, scale, grads)
