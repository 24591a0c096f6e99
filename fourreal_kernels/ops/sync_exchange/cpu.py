"""The exchange on CPUs: compiled kernels per channel; for dense weights torch's own GEMM between compiled passes."""

from __future__ import annotations

from torch import Tensor

from ... import native
from . import cpu_channel, cpu_dense, cpu_dense_backward
from .call import ExchangeCall, ExchangeGradients, is_per_channel


def unavailable() -> str | None:
    return None if native.cpu_library() else native.why_missing("cpu")


def refusal(call: ExchangeCall) -> str | None:
    if call.device.type != "cpu":
        return f"it runs on cpu, the call is on {call.device.type}"
    return None


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    """Write the exchanged streams into ``out_view`` and ``out_time``, which may be ``view`` and ``time``."""
    form = cpu_channel if is_per_channel(weight, kind, view.shape[-1]) else cpu_dense
    form.forward(view, time, weight, bias, input_scale, gate, kind, out_view, out_time)


def backward(grad_view: Tensor, grad_time: Tensor, view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None,
             input_scale: Tensor | None, gate: Tensor | None, kind: str) -> ExchangeGradients:
    """Gradients with respect to every argument."""
    form = cpu_channel if is_per_channel(weight, kind, view.shape[-1]) else cpu_dense_backward
    return form.backward(grad_view, grad_time, view, time, weight, bias, input_scale, gate, kind)
