"""The exchange by compiled CUDA kernels: per channel in one pass; dense weights around torch's own GEMM, in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import cuda_support
from . import cuda_channel, cuda_dense, cuda_rows, gpu_dense_backward
from .call import ExchangeCall, ExchangeGradients, is_per_channel


def unavailable() -> str | None:
    return cuda_support.why_unavailable()


def refusal(call: ExchangeCall) -> str | None:
    if reason := cuda_support.refuse_device(call):
        return reason
    if call.dtype == torch.float64:
        return "its arithmetic is in float32, the call is in float64"
    return None


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    """Write the exchanged streams into ``out_view`` and ``out_time``, which may be ``view`` and ``time``.

    Asynchronous on the current stream of their device.
    """
    form = cuda_channel if is_per_channel(weight, kind, view.shape[-1]) else cuda_dense
    form.forward(view, time, weight, bias, input_scale, gate, kind, out_view, out_time)


def backward(grad_view: Tensor, grad_time: Tensor, view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None,
             input_scale: Tensor | None, gate: Tensor | None, kind: str) -> ExchangeGradients:
    """Gradients with respect to every argument."""
    tensors = (grad_view, grad_time, view, time, weight, bias, input_scale, gate)
    if is_per_channel(weight, kind, view.shape[-1]):
        return cuda_channel.backward(*tensors, kind)
    return gpu_dense_backward.backward(cuda_rows.stage, cuda_rows.finish, *tensors, kind)
