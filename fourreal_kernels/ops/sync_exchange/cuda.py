"""The exchange by the compiled CUDA kernels: per-channel hard synchronisation in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from . import compiled
from .call import ExchangeCall


def unavailable() -> str | None:
    library = native.cuda_library()
    if library is None:
        return native.why_missing("cuda")
    return library.why_no_device() or None


def refusal(call: ExchangeCall) -> str | None:
    if call.device.type != "cuda":
        return f"it runs on cuda, the call is on {call.device.type}"
    if call.dtype == torch.float64:
        return "its kernel has no float64"
    return compiled.refusal(call)


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    """Write the exchanged streams into ``out_view`` and ``out_time``, which may be ``view`` and ``time``.

    Asynchronous on the current stream. The converted parameters may be freed before the kernel has run: the caching
    allocator reuses memory in stream order.
    """
    arguments, _keep = compiled.kernel_arguments(view, time, weight, bias, input_scale, gate, out_view, out_time)
    with torch.cuda.device(view.device):
        stream = torch.cuda.current_stream().cuda_stream
        native.cuda_library().sync_exchange_hard_channel(*arguments, stream=stream)
