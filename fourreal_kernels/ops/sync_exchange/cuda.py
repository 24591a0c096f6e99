"""The exchange by the compiled CUDA kernels: per-channel hard synchronisation in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from .. import cuda_support
from . import compiled
from .call import ExchangeCall


def unavailable() -> str | None:
    return cuda_support.why_unavailable()


def refusal(call: ExchangeCall) -> str | None:
    refused = cuda_support.refuse_device(call)
    if refused:
        return refused
    if call.dtype == torch.float64:
        return "its kernel has no float64"
    if call.kind != "hard" or not call.per_channel:
        form = "per-channel" if call.per_channel else "dense"
        return f"its kernel is the per-channel hard exchange, the call is {form} {call.kind}"
    if call.needs_grad:
        return "its kernel has no backward yet; call it under torch.no_grad()"
    if len(call.shape) > compiled.GRID_DIMS:
        return f"its kernel takes up to {compiled.GRID_DIMS} dims (B, V, T, N, C), the streams have {len(call.shape)}"
    return None


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    """Write the exchanged streams into ``out_view`` and ``out_time``, which may be ``view`` and ``time``.

    Asynchronous on the current stream. The converted parameters may be freed before the kernel has run: the caching
    allocator reuses memory in stream order.
    """
    streams = [compiled.as_grid(x) for x in (view, time, out_view, out_time)]
    parameters = [compiled.as_accumulated(x) for x in (weight, bias, input_scale, gate)]
    with cuda_support.on_device(view):
        native.cuda_library().sync_exchange_hard_channel(
            *(x.data_ptr() for x in streams), str(view.dtype).removeprefix("torch."), list(streams[0].shape),
            *(list(x.stride()) for x in streams), *(compiled.address(x) for x in parameters),
            stream=cuda_support.stream_of(view),
        )
