"""The exchange by the compiled CPU kernels: per-channel hard synchronisation in one pass."""

from __future__ import annotations

from torch import Tensor

from ... import native
from . import compiled
from .call import ExchangeCall


def unavailable() -> str | None:
    return None if native.cpu_library() else native.why_missing("cpu")


def refusal(call: ExchangeCall) -> str | None:
    if call.device.type != "cpu":
        return f"it runs on cpu, the call is on {call.device.type}"
    return compiled.refusal(call)


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    """Write the exchanged streams into ``out_view`` and ``out_time``, which may be ``view`` and ``time``."""
    arguments, _keep = compiled.kernel_arguments(view, time, weight, bias, input_scale, gate, out_view, out_time)
    native.cpu_library().sync_exchange_hard_channel(*arguments)
