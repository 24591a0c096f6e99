"""Public operators of the exchange between the two streams."""

from __future__ import annotations

from torch import Tensor

from ... import dispatch
from .. import checks
from ..library import call
from ..once import once_per_layout
from . import registration  # noqa: F401  (defines the torch operators)
from .call import ExchangeCall, check_inputs, exchange_call, requires_grad


def sync_exchange(
    view: Tensor,
    time: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str,
    input_scale: Tensor | None = None,
    gate: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Exchange information between the view stream and the time stream (4Real-Video, hard and soft synchronisation).

    With z = concat(view * s_view, time * s_time) over channels, s from ``input_scale`` or 1:

    * hard: y = gate * (z W^T + bias); both streams become y.
    * soft: d = gate * (z W^T + bias); view + d[:C] and time + d[C:].

    Args:
        view, time: ``(B, ..., C)`` float16, bfloat16, float32 or float64, of one shape, dtype and device; the last dim
            is contiguous, every other stride is free.
        weight: dense ``(C, 2C)`` (hard) or ``(2C, 2C)`` (soft); per channel ``(2, C)`` (hard: in stream, channel) or
            ``(2, 2, C)`` (soft: out stream, in stream, channel).
        bias: ``(C,)`` (hard) or ``(2C,)`` (soft).
        kind: ``"hard"`` or ``"soft"``.
        input_scale: ``(B, 2C)``, view channels first.
        gate: ``(B, C)`` (hard) or ``(B, 2C)`` (soft).
        backend: a backend name, which then never falls back; None takes the fastest that can run the call.

    Returns:
        ``(view, time)``: two new tensors, differentiable once with respect to every tensor argument.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: wrong rank, shape, device or strides, unknown kind or backend.
        NotImplementedError: the named backend cannot run this call.
    """
    check_inputs(view, time, weight, bias, kind, input_scale, gate)
    # autograd hides the grad mode from the operator, so it is told whether a backward will follow
    needs_grad = requires_grad(view, time, weight, bias, input_scale, gate)
    return call(
        "sync_exchange", view, time, weight, bias, input_scale, gate, kind, dispatch.requested(backend), needs_grad
    )


def sync_exchange_(
    view: Tensor,
    time: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str,
    input_scale: Tensor | None = None,
    gate: Tensor | None = None,
    backend: str | None = None,
) -> None:
    """:func:`sync_exchange` in place: the results are written into ``view`` and ``time``, bitwise equal to it.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`sync_exchange`.
        ValueError: a tensor requires grad while grad is enabled; ``view`` or ``time`` overlaps itself, the other one
            or another argument. Nothing is written.
    """
    _check_in_place(view, time, weight, bias, kind, input_scale, gate)
    call("sync_exchange_", view, time, weight, bias, input_scale, gate, kind, dispatch.requested(backend))


@once_per_layout
def _check_in_place(view, time, weight, bias, kind, input_scale, gate) -> None:
    check_inputs(view, time, weight, bias, kind, input_scale, gate)
    checks.require_no_grad(
        "sync_exchange_", "sync_exchange",
        view=view, time=time, weight=weight, bias=bias, input_scale=input_scale, gate=gate,
    )


def _describe(in_place: bool):
    def describe(
        view, time, weight, bias=None, *, kind, input_scale=None, gate=None, backend=None
    ) -> ExchangeCall:
        check = _check_in_place if in_place else check_inputs
        check(view, time, weight, bias, kind, input_scale, gate)
        tensors = (view, time, weight, bias, input_scale, gate)
        return exchange_call(view, weight, kind, in_place=in_place, needs_grad=requires_grad(*tensors))

    return describe


_BACKENDS = ("reference", "cpu", "triton", "cuda")
_AUTO = {"cpu": ("cpu", "reference"), "cuda": ("reference",)}
dispatch.register(dispatch.Operator("sync_exchange", __package__, _BACKENDS, _AUTO, _describe(False)))
dispatch.register(dispatch.Operator("sync_exchange_", __package__, _BACKENDS, _AUTO, _describe(True)))
