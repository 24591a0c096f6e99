"""Public attention operators over the grid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ... import dispatch
from ...grid import VIEW, parse_axes
from .. import checks
from ..library import call
from ..once import once_per_layout
from . import registration, registration_extra  # noqa: F401  (define the torch operators)
from .call import AttentionCall, attention_call, check_extra, check_inputs, check_scale

_BACKENDS = ("reference", "sdpa", "cpu", "triton", "cuda")
_AUTO = {"cpu": ("cpu", "sdpa", "reference"), "cuda": ("sdpa", "reference")}


def axis_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axes: str,
    *,
    extra_k: Tensor | None = None,
    extra_v: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    deterministic: bool = False,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention in which each token attends jointly over the named axes of the grid.

    out = softmax(scale * q k^T) v over the keys that ``axes`` names: ``"vn"`` (view attention) and ``"tn"`` (time
    attention) of 4Real-Video, ``"vn|tn"`` (the fused attention of 4Real-Video-V2: same view or same timestep, the own
    frame counted once), ``"v"``, ``"t"``, ``"v|t"`` (the same spatial position along views, timesteps or both),
    ``"n"``, ``"vt"``, ``"vtn"``, and any other group of v, t, n or union of two groups.

    Args:
        q, k, v: ``(B, V, T, N, H, D)`` float16, bfloat16, float32 or float64, of one shape, dtype and device. The last
            dim is contiguous, every other stride is free.
        axes: the axes attended over, see :mod:`fourreal_kernels.grid`.
        extra_k, extra_v: ``(B, L, H, D)``, keys and values of L tokens outside the grid to which every token attends
            as well, in the same softmax: text tokens of joint attention, registers, reference frames. Strides as q.
        scale: factor of the scores, ``D ** -0.5`` when None.
        return_lse: also return the log-sum-exp of the scaled scores.
        deterministic: take only backends whose backward is bitwise repeatable.
        out: a tensor like q with any strides (last dim contiguous) that receives the result; not differentiable.
        backend: a backend name, which then never falls back; None takes the fastest that can run the call.

    Returns:
        ``out`` like q, or ``(out, lse)`` with lse ``(B, V, T, N, H)``, natural log, float32 (float64 for float64
        inputs). Both are differentiable once with respect to q, k, v, extra_k and extra_v.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: wrong rank, shape, device or strides, unknown axes or backend, ``out`` overlaps an input, or
            ``out`` is given while a gradient is asked for.
        NotImplementedError: the named backend cannot run this call.
    """
    _check(q, k, v, extra_k, extra_v, out, deterministic)
    options = str(parse_axes(axes)), check_scale(scale, q.shape[-1]), deterministic, dispatch.requested(backend)
    operator, inputs = "axis_attention", (q, k, v)
    if extra_k is not None:
        operator, inputs = "axis_attention_extra", (q, k, v, extra_k, extra_v)
    if out is None:
        result, lse = call(operator, *inputs, *options)
    else:
        result, lse = out, registration.empty_lse(q) if return_lse else None
        call(f"{operator}_out", *inputs, *options, out, lse)
    return (result, lse) if return_lse else result


@once_per_layout
def _check(
    q: Tensor, k: Tensor, v: Tensor, extra_k: Tensor | None, extra_v: Tensor | None, out: Tensor | None,
    deterministic: bool,
) -> None:
    if not isinstance(deterministic, bool):
        raise TypeError(f"deterministic: got {type(deterministic).__name__}, expected True or False")
    check_inputs(q, k, v)
    check_extra(extra_k, extra_v, q)
    if out is not None:
        checks.require_grid("out", out)
        checks.require_like("out", out, "q", q)
        checks.require_no_grad(
            "axis_attention(out=...)", "axis_attention without out=",
            q=q, k=k, v=v, extra_k=extra_k, extra_v=extra_v, out=out,
        )


def two_stream_attention(
    view_qkv: Sequence[Tensor],
    time_qkv: Sequence[Tensor],
    *,
    scale: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """View attention of the view stream and time attention of the time stream (4Real-Video, the two-stream layer).

    Args:
        view_qkv: three tensors ``(B, V, T, N, H, D)``: q, k, v of the view stream, attended over ``"vn"``.
        time_qkv: the same for the time stream, attended over ``"tn"``; same shape, dtype and device.
        scale: factor of the scores, ``D ** -0.5`` when None.
        backend: a backend name of ``axis_attention``, which then never falls back.

    Returns:
        ``(out_view, out_time)``, each like its q; differentiable once.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`axis_attention`.
    """
    view_q, view_k, view_v = _check_triple("view_qkv", view_qkv)
    time_q, time_k, time_v = _check_triple("time_qkv", time_qkv)
    checks.require_like("time_qkv.q", time_q, "view_qkv.q", view_q)
    scale = check_scale(scale, view_q.shape[-1])
    out_view, _, out_time, _ = call(
        "two_stream_attention", view_q, view_k, view_v, time_q, time_k, time_v, scale, dispatch.requested(backend)
    )
    return out_view, out_time


def _check_triple(name: str, qkv: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(qkv, tuple | list):
        raise TypeError(f"{name}: got {type(qkv).__name__}, expected a tuple or list of three tensors (q, k, v)")
    if len(qkv) != 3:
        raise ValueError(f"{name}: got {len(qkv)} items, expected three tensors (q, k, v)")
    q, k, v = qkv
    check_inputs(q, k, v, f"{name}.")
    return q, k, v


def _describe_axis_attention(
    q, k, v, axes, *, extra_k=None, extra_v=None, scale=None, return_lse=False, deterministic=False, out=None,
    backend=None,
) -> AttentionCall:
    _check(q, k, v, extra_k, extra_v, out, deterministic)
    check_scale(scale, q.shape[-1])
    return attention_call(q, axes, deterministic, extra_k)


def _describe_two_stream(view_qkv, time_qkv, *, scale=None, backend=None) -> AttentionCall:
    q, _, _ = _check_triple("view_qkv", view_qkv)
    time_q, _, _ = _check_triple("time_qkv", time_qkv)
    checks.require_like("time_qkv.q", time_q, "view_qkv.q", q)
    check_scale(scale, q.shape[-1])
    return attention_call(q, VIEW, False)


for _name, _describe in (("axis_attention", _describe_axis_attention), ("two_stream_attention", _describe_two_stream)):
    dispatch.register(dispatch.Operator(_name, __package__, _BACKENDS, _AUTO, _describe))
