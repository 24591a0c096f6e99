"""Axis attention by the compiled CUDA kernels: true strides, no copies.

Written for compute capability 8.0 and newer. The tests compile the kernels with nvcc and run their sources on the host;
``backend=None`` does not choose them.
"""

from __future__ import annotations

from torch import Tensor

from ...grid import Axes
from .. import cuda_support
from ..checks import unit_stride_gradient
from . import cuda_pointwise
from .call import AttentionCall


def unavailable() -> str | None:
    return cuda_support.why_unavailable()


def refusal(call: AttentionCall) -> str | None:
    return cuda_support.refuse_device(call) or cuda_pointwise.refusal(call)


def forward(q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``. Asynchronous on the current stream."""
    cuda_pointwise.forward(q, k, v, axes, scale, out, lse)


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write dq, dk, dv into ``grads``. Asynchronous on the current stream."""
    grad_out = unit_stride_gradient(grad_out)
    cuda_pointwise.backward(grad_out, grad_lse, q, k, v, out, lse, axes, scale, grads)
