"""Axis attention by Triton kernels: true strides, no copies, the union in one softmax, extra tokens in the key loop.

Written for compute capability 8.0 and newer. The kernels are compiled ahead of time and run under Triton's interpreter
by the tests; ``backend=None`` does not choose them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...grid import Axes
from .. import triton_support
from ..checks import unit_stride_gradient
from .call import AttentionCall, KeyValue

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_UNIONS = ("vn|tn", "v|t")
_LARGEST_HEAD_DIM = 256
_LARGEST_WITH_EXTRA = 128


def unavailable() -> str | None:
    return triton_support.why_unavailable()


def refusal(call: AttentionCall) -> str | None:
    if reason := triton_support.refuse_device(call):
        return reason
    if call.dtype not in _DTYPES:
        return f"its kernels accumulate in float32, the call is {str(call.dtype).removeprefix('torch.')}"
    if call.shape[-1] > _LARGEST_HEAD_DIM:
        return f"its kernels take head dims up to {_LARGEST_HEAD_DIM}, got {call.shape[-1]}"
    if call.axes.is_union and str(call.axes) not in _UNIONS:
        return f"of the unions its kernels take {' and '.join(map(repr, _UNIONS))}, the call is {str(call.axes)!r}"
    if call.extra and call.shape[3] > 1 and not all("n" in group for group in call.axes.groups):
        return f"its kernels take extra_k and extra_v where every group of axes has n, the call is {str(call.axes)!r}"
    if call.extra and call.shape[-1] > _LARGEST_WITH_EXTRA:
        return f"its kernels take extra_k and extra_v with head dims up to {_LARGEST_WITH_EXTRA}, got {call.shape[-1]}"
    return None


def forward(
    q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor, extra: KeyValue | None = None
) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``."""
    if _by_pointwise_kernels(axes, extra):
        from .triton_pointwise import forward_pointwise

        forward_pointwise(q, k, v, axes, scale, out, lse)
    else:
        from . import triton_launch

        triton_launch.forward(q, k, v, axes, scale, out, lse, extra)


def _by_pointwise_kernels(axes: Axes, extra: KeyValue | None) -> bool:
    """Sequences as short as V or T have kernels of their own, which have no key loop that extra tokens could enter."""
    return axes.is_pointwise and extra is None


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
    extra: KeyValue | None = None, extra_grads: KeyValue | None = None,
) -> None:
    """Write dq, dk, dv into ``grads``, those of the extra keys and values into ``extra_grads``."""
    inputs = unit_stride_gradient(grad_out), grad_lse, q, k, v, out, lse, axes, scale, grads
    if _by_pointwise_kernels(axes, extra):
        from .triton_pointwise import backward_pointwise

        backward_pointwise(*inputs)
    else:
        from . import triton_launch

        triton_launch.backward(*inputs, extra, extra_grads)
