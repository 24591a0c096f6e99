"""Axis attention by the compiled CUDA kernels: true strides, no copies.

Written for compute capability 8.0 and newer. The tests compile the kernels with nvcc and run their sources on the host;
``backend=None`` does not choose them.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from ...grid import Axes
from .. import cuda_support
from ..checks import unit_stride_gradient
from . import cuda_frames, cuda_pointwise
from .call import AttentionCall


def unavailable() -> str | None:
    return cuda_support.why_unavailable()


def refusal(call: AttentionCall) -> str | None:
    if reason := cuda_support.refuse_device(call):
        return reason
    if call.extra:
        return "its kernels take no extra_k and extra_v"
    return _kernels(call.axes).refusal(call)


def _kernels(axes: Axes) -> ModuleType:
    return cuda_frames if str(axes) in cuda_frames.AXES else cuda_pointwise


def forward(q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``. Asynchronous on the current stream."""
    _kernels(axes).forward(q, k, v, axes, scale, out, lse)


def forward_two_streams(
    view_qkv: tuple[Tensor, Tensor, Tensor], time_qkv: tuple[Tensor, Tensor, Tensor], scale: float,
    view_results: tuple[Tensor, Tensor], time_results: tuple[Tensor, Tensor],
) -> None:
    """Write out and lse of both streams, in one launch. Asynchronous on the current stream."""
    cuda_frames.forward_two_streams(view_qkv, time_qkv, scale, view_results, time_results)


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write dq, dk, dv into ``grads``. Asynchronous on the current stream."""
    grad_out = unit_stride_gradient(grad_out)
    _kernels(axes).backward(grad_out, grad_lse, q, k, v, out, lse, axes, scale, grads)
