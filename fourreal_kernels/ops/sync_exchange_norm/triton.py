"""The fused exchange by Triton kernels: per channel in one pass over each row; dense around torch's GEMM, in chunks.

The backward is that of the formulas in PyTorch: it has no kernel yet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..sync_exchange.call import ExchangeCall, is_per_channel
from ..triton_support import refuse_device, why_unavailable
from .call import ExchangeNormTensors
from .formulas import backward

__all__ = ["backward", "forward", "refusal", "unavailable"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_CHANNELS = 8192
"""A row of both streams has to fit the registers of one program."""


def unavailable() -> str | None:
    return why_unavailable()


def refusal(call: ExchangeCall) -> str | None:
    if reason := refuse_device(call):
        return reason
    if call.dtype not in _DTYPES:
        return f"its arithmetic is in float32, the call is in {str(call.dtype).removeprefix('torch.')}"
    if call.shape[-1] > _MOST_CHANNELS:
        return f"its kernel takes up to {_MOST_CHANNELS} channels, got {call.shape[-1]}"
    return None


def forward(tensors: ExchangeNormTensors, kind: str, eps: float, out_view: Tensor, out_time: Tensor,
            view_norm: Tensor, time_norm: Tensor) -> None:
    """Write the exchanged streams and their norms into the last four, which may be the streams and the branches."""
    from .triton_launch import dense_forward, per_channel_forward

    per_channel = is_per_channel(tensors.weight, kind, tensors.view.shape[-1])
    run = per_channel_forward if per_channel else dense_forward
    run(tensors, kind, eps, (out_view, out_time, view_norm, time_norm))
