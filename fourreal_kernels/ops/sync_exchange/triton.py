"""The exchange by Triton kernels: per channel in one pass; dense weights around torch's own GEMM, in chunks of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..triton_support import refuse_device, why_unavailable
from .call import ExchangeCall, ExchangeGradients, is_per_channel

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def unavailable() -> str | None:
    return why_unavailable()


def refusal(call: ExchangeCall) -> str | None:
    if reason := refuse_device(call):
        return reason
    if call.dtype not in _DTYPES:
        return f"its arithmetic is in float32, the call is in {str(call.dtype).removeprefix('torch.')}"
    return None


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    """Write the exchanged streams into ``out_view`` and ``out_time``, which may be ``view`` and ``time``."""
    if is_per_channel(weight, kind, view.shape[-1]):
        from .triton_channel import forward as exchange
    else:
        from .triton_dense import forward as exchange
    exchange(view, time, weight, bias, input_scale, gate, kind, out_view, out_time)


def backward(grad_view: Tensor, grad_time: Tensor, view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None,
             input_scale: Tensor | None, gate: Tensor | None, kind: str) -> ExchangeGradients:
    """Gradients with respect to every argument."""
    tensors = (grad_view, grad_time, view, time, weight, bias, input_scale, gate)
    if is_per_channel(weight, kind, view.shape[-1]):
        from . import triton_channel

        return triton_channel.backward(*tensors, kind)
    from . import gpu_dense_backward, triton_chunks

    return gpu_dense_backward.backward(triton_chunks.stage, triton_chunks.finish, *tensors, kind)
