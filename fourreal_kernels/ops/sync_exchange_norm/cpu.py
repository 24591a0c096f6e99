"""The fused exchange on CPUs: per channel in one pass over each row; dense around torch's GEMM, a chunk at a time.

The backward is that of the formulas in PyTorch: it has no kernel yet.
"""

from __future__ import annotations

from torch import Tensor

from ... import native
from ..sync_exchange import cpu_channel, cpu_dense
from ..sync_exchange.call import ExchangeCall, is_per_channel
from ..sync_exchange.compiled import as_accumulated
from ..sync_exchange.cpu_rows import NormParameters
from .call import ExchangeNormTensors
from .formulas import backward

__all__ = ["backward", "forward", "refusal", "unavailable"]


def unavailable() -> str | None:
    return None if native.cpu_library() else native.why_missing("cpu")


def refusal(call: ExchangeCall) -> str | None:
    if call.device.type != "cpu":
        return f"it runs on cpu, the call is on {call.device.type}"
    return None


def forward(tensors: ExchangeNormTensors, kind: str, eps: float, out_view: Tensor, out_time: Tensor,
            view_norm: Tensor, time_norm: Tensor) -> None:
    """Write the exchanged streams and their norms into the last four, which may be the streams and the branches."""
    norm = NormParameters(
        tensors.view_branch, tensors.time_branch, view_norm, time_norm,
        *map(as_accumulated, (tensors.branch_gate, tensors.norm_scale, tensors.norm_shift)), eps,
    )
    form = cpu_channel if is_per_channel(tensors.weight, kind, tensors.view.shape[-1]) else cpu_dense
    form.forward(tensors.view, tensors.time, *tensors.exchange_parameters(), kind, out_view, out_time, norm)

