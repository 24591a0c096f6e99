"""What the two compiled backends share: which calls their kernel takes, and its arguments."""

from __future__ import annotations

from torch import Tensor

from ..checks import accumulation_dtype
from .call import ExchangeCall

_GRID_DIMS = 5


def refusal(call: ExchangeCall) -> str | None:
    """Why the compiled kernel, hard synchronisation with per-channel weights, cannot run this call."""
    if call.kind != "hard" or not call.per_channel:
        form = "per-channel" if call.per_channel else "dense"
        return f"its kernel is the per-channel hard exchange, the call is {form} {call.kind}"
    if call.needs_grad:
        return "its kernel has no backward yet; call it under torch.no_grad()"
    if len(call.shape) > _GRID_DIMS:
        return f"its kernel takes up to {_GRID_DIMS} dims (B, V, T, N, C), the streams have {len(call.shape)}"
    return None


def kernel_arguments(
    view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None, gate: Tensor | None,
    out_view: Tensor, out_time: Tensor,
) -> tuple[list, list[Tensor | None]]:
    """Positional arguments of the kernel, and the tensors that must live until it has read them."""
    streams = [_as_grid(x) for x in (view, time, out_view, out_time)]
    parameters = [_as_accumulated(x) for x in (weight, bias, input_scale, gate)]
    arguments = [x.data_ptr() for x in streams]
    arguments += [str(view.dtype).removeprefix("torch."), list(streams[0].shape)]
    arguments += [list(x.stride()) for x in streams]
    arguments += [0 if x is None else x.data_ptr() for x in parameters]
    return arguments, parameters


def _as_grid(x: Tensor) -> Tensor:
    """``(B, ..., C)`` as five dims, without a copy."""
    return x[(slice(None), *[None] * (_GRID_DIMS - x.ndim))]


def _as_accumulated(x: Tensor | None) -> Tensor | None:
    """Parameters are small: the kernel reads them contiguous in its accumulation dtype."""
    return None if x is None else x.detach().to(accumulation_dtype(x.dtype)).contiguous()
