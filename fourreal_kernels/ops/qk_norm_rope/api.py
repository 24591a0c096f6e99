"""Public operators for QK-norm and rotary position embedding."""

from __future__ import annotations

from torch import Tensor

from ... import dispatch
from .. import checks
from ..library import call
from ..once import once_per_layout
from . import registration  # noqa: F401  (defines the torch operators)
from .call import NormRopeCall, check_inputs, norm_rope_call


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    *,
    eps: float = 1e-6,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """RMS-normalise q and k over the head dim, scale by their weights, and rotate pairs of channels.

    y = x / sqrt(mean(x^2) + eps) * weight, then for each pair of channels (2i, 2i + 1):
    (a, b) -> (a cos_i - b sin_i, a sin_i + b cos_i), the same angles for every head.

    Args:
        q, k: ``(B, V, T, N, H, D)`` of one shape, dtype and device; last dim contiguous, every other stride free.
        q_weight, k_weight: ``(D,)`` in the dtype of q; both None skips the normalisation.
        cos, sin: broadcastable to ``(B, V, T, N, D/2)``, any floating dtype, any strides, no gradient; both None
            skips the rotation.
        eps: added to the mean square.
        backend: a backend name, which then never falls back; None takes the fastest that can run the call.

    Returns:
        ``(q, k)``: two new tensors, differentiable once with respect to q, k and the weights.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: wrong rank, shape, device or strides, odd D with a rotation, one of a pair missing.
        NotImplementedError: the named backend cannot run this call.
    """
    check_inputs(q, k, q_weight, k_weight, cos, sin, eps)
    return call("qk_norm_rope", q, k, q_weight, k_weight, cos, sin, float(eps), dispatch.requested(backend))


def qk_norm_rope_(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    *,
    eps: float = 1e-6,
    backend: str | None = None,
) -> None:
    """:func:`qk_norm_rope` in place: the results are written into ``q`` and ``k``, bitwise equal to it.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`qk_norm_rope`.
        ValueError: a tensor requires grad while grad is enabled; ``q`` or ``k`` overlaps itself, the other one or
            another argument. Nothing is written.
    """
    _check_in_place(q, k, q_weight, k_weight, cos, sin, eps)
    call("qk_norm_rope_", q, k, q_weight, k_weight, cos, sin, float(eps), dispatch.requested(backend))


@once_per_layout
def _check_in_place(q, k, q_weight, k_weight, cos, sin, eps) -> None:
    check_inputs(q, k, q_weight, k_weight, cos, sin, eps)
    checks.require_no_grad("qk_norm_rope_", "qk_norm_rope", q=q, k=k, q_weight=q_weight, k_weight=k_weight)


def _describe(in_place: bool):
    def describe(q, k, q_weight, k_weight, cos, sin, *, eps=1e-6, backend=None) -> NormRopeCall:
        check = _check_in_place if in_place else check_inputs
        check(q, k, q_weight, k_weight, cos, sin, eps)
        return norm_rope_call(q, q_weight, cos, in_place=in_place)

    return describe


_BACKENDS = ("reference", "cpu", "triton", "cuda")
_AUTO = {"cpu": ("cpu", "reference"), "cuda": ("reference",)}
dispatch.register(dispatch.Operator("qk_norm_rope", __package__, _BACKENDS, _AUTO, _describe(False)))
dispatch.register(dispatch.Operator("qk_norm_rope_", __package__, _BACKENDS, _AUTO, _describe(True)))
