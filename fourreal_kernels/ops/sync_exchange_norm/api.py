"""Public operators of the exchange fused with its residual and its norm."""

from __future__ import annotations

from torch import Tensor

from ... import dispatch
from .. import checks
from ..library import call
from ..once import once_per_layout
from ..sync_exchange.call import ExchangeCall, exchange_call, requires_grad
from . import registration  # noqa: F401  (defines the torch operators)
from .call import TENSORS, check_tensors


def sync_exchange_norm(
    view: Tensor,
    time: Tensor,
    view_branch: Tensor,
    time_branch: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str,
    input_scale: Tensor | None = None,
    gate: Tensor | None = None,
    branch_gate: Tensor | None = None,
    norm_scale: Tensor,
    norm_shift: Tensor,
    eps: float = 1e-6,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """End one DiT block, exchange the streams, and normalise them for the next block (adaLN of DiT, arXiv:2212.09748).

    For each stream s, y_s = x_s + branch_gate_s * branch_s (the residual and gate of the block's last branch); then
    (view, time) = :func:`sync_exchange` of (y_view, y_time); then
    norm_s = LayerNorm(x_s) * (1 + norm_scale_s) + norm_shift_s over channels, without affine parameters, with the
    biased variance and ``eps`` inside the root. The streams are normalised before they are rounded to their dtype.

    Args:
        view, time, view_branch, time_branch: ``(B, ..., C)`` float16, bfloat16, float32 or float64, of one shape, dtype
            and device; the last dim is contiguous, every other stride is free.
        weight, bias, kind, input_scale, gate: as for :func:`sync_exchange`.
        branch_gate: ``(B, 2C)``, view's channels first; None is 1.
        norm_scale, norm_shift: ``(B, 2C)``, view's channels first.
        eps: added to the variance.
        backend: a backend name, which then never falls back; None takes the fastest that can run the call.

    Returns:
        ``(view, time, view_norm, time_norm)``: four new tensors, differentiable once with respect to every tensor
        argument.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: wrong rank, shape, device or strides, unknown kind or backend, negative eps.
        NotImplementedError: the named backend cannot run this call.
    """
    tensors = (
        view, time, view_branch, time_branch, weight, bias, input_scale, gate, branch_gate, norm_scale, norm_shift
    )
    check_tensors(*tensors, kind, eps)
    # autograd hides the grad mode from the operator, so it is told whether a backward will follow
    return call(
        "sync_exchange_norm", *tensors, kind, float(eps), dispatch.requested(backend), requires_grad(*tensors)
    )


def sync_exchange_norm_(
    view: Tensor,
    time: Tensor,
    view_branch: Tensor,
    time_branch: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str,
    input_scale: Tensor | None = None,
    gate: Tensor | None = None,
    branch_gate: Tensor | None = None,
    norm_scale: Tensor,
    norm_shift: Tensor,
    eps: float = 1e-6,
    backend: str | None = None,
) -> None:
    """:func:`sync_exchange_norm` in place, bitwise equal to it: ``view`` and ``time`` receive the exchanged streams,
    ``view_branch`` and ``time_branch`` the normalised ones.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`sync_exchange_norm`.
        ValueError: a tensor requires grad while grad is enabled; one of the four buffers overlaps itself, another one
            or another argument. Nothing is written.
    """
    tensors = (
        view, time, view_branch, time_branch, weight, bias, input_scale, gate, branch_gate, norm_scale, norm_shift
    )
    _check_in_place(*tensors, kind, eps)
    call("sync_exchange_norm_", *tensors, kind, float(eps), dispatch.requested(backend))


@once_per_layout
def _check_in_place(*arguments) -> None:
    """``arguments`` as those of :func:`check_tensors`."""
    check_tensors(*arguments)
    tensors = dict(zip(TENSORS, arguments[:-2], strict=True))
    checks.require_no_grad("sync_exchange_norm_", "sync_exchange_norm", **tensors)


def _describe(in_place: bool):
    def describe(
        view, time, view_branch, time_branch, weight, bias=None, *, kind, input_scale=None, gate=None,
        branch_gate=None, norm_scale, norm_shift, eps=1e-6, backend=None,
    ) -> ExchangeCall:
        tensors = (view, time, view_branch, time_branch, weight, bias, input_scale, gate, branch_gate, norm_scale,
                   norm_shift)
        check = _check_in_place if in_place else check_tensors
        check(*tensors, kind, eps)
        return exchange_call(view, weight, kind, in_place=in_place, needs_grad=requires_grad(*tensors))

    return describe


_BACKENDS = ("reference", "cpu", "triton", "cuda")
_AUTO = {"cpu": ("cpu", "reference"), "cuda": ("reference",)}
dispatch.register(dispatch.Operator("sync_exchange_norm", __package__, _BACKENDS, _AUTO, _describe(False)))
dispatch.register(dispatch.Operator("sync_exchange_norm_", __package__, _BACKENDS, _AUTO, _describe(True)))
