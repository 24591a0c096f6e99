"""``axis_attention`` and ``two_stream_attention`` as ``torch.ops.fourreal_kernels`` operators.

Backward passes are operators of their own. The backend is chosen when an operator runs, not when it is traced, so a
compiled graph follows ``use_backend`` and the device it runs on.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ... import dispatch
from ...grid import parse_axes
from .. import fresh
from ..checks import accumulation_dtype
from ..library import define, differentiable
from ..memory import mark_written, require_writable
from .call import attention_call


def empty_lse(q: Tensor) -> Tensor:
    return q.new_empty(q.shape[:5], dtype=accumulation_dtype(q.dtype))


def _backend(q: Tensor, axes: str, deterministic: bool, backend: str):
    call = attention_call(q, axes, deterministic)
    return dispatch.load("axis_attention", dispatch.select("axis_attention", call, backend))


def _forward(q, k, v, axes: str, scale: float, deterministic: bool, backend: str) -> tuple[Tensor, Tensor]:
    out, lse = fresh.empty_like(q), empty_lse(q)
    _backend(q, axes, deterministic, backend).forward(q, k, v, parse_axes(axes), scale, out, lse)
    return out, lse


def _forward_fake(q, k, v, axes: str, scale: float, deterministic: bool, backend: str):
    return torch.empty_like(q), empty_lse(q)


def _forward_out(q, k, v, axes: str, scale: float, deterministic: bool, backend: str, out, lse) -> None:
    require_writable(("out", "q", "k", "v"), (out, q, k, v), 1)
    implementation = _backend(q, axes, deterministic, backend)
    implementation.forward(q, k, v, parse_axes(axes), scale, out, lse_for(implementation, q, lse))
    mark_written(*written(out, lse))


def lse_for(implementation: ModuleType, q: Tensor, wanted: Tensor | None) -> Tensor | None:
    """What the backend is given for the log-sum-exp: all but those that say otherwise need room to write it."""
    return empty_lse(q) if wanted is None and not getattr(implementation, "LSE_IS_OPTIONAL", False) else wanted


def written(out: Tensor, lse: Tensor | None) -> tuple[Tensor, ...]:
    return (out,) if lse is None else (out, lse)


def _forward_out_fake(q, k, v, axes: str, scale: float, deterministic: bool, backend: str, out, lse) -> None:
    return None


def _backward(grad_out, grad_lse, q, k, v, out, lse, axes: str, scale: float, deterministic: bool, backend: str):
    grads = (fresh.empty_like(q), fresh.empty_like(k), fresh.empty_like(v))
    _backend(q, axes, deterministic, backend).backward(
        grad_out, grad_lse, q, k, v, out, lse, parse_axes(axes), scale, grads
    )
    return grads


def _backward_fake(grad_out, grad_lse, q, k, v, out, lse, axes, scale, deterministic, backend):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup_context(ctx, inputs, output) -> None:
    q, k, v, ctx.axes, ctx.scale, ctx.deterministic, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, *output)


def _autograd(ctx, grad_out, grad_lse):
    q, k, v, out, lse = ctx.saved_tensors
    if grad_out is None:
        if grad_lse is None:
            return (None,) * 7
        grad_out = torch.zeros_like(out)
    grads = torch.ops.fourreal_kernels.axis_attention_backward(
        grad_out, grad_lse, q, k, v, out, lse, ctx.axes, ctx.scale, ctx.deterministic, ctx.backend
    )
    return *grads, None, None, None, None


def _two_stream(view_q, view_k, view_v, time_q, time_k, time_v, scale: float, backend: str):
    implementation = _backend(view_q, "vn", False, backend)
    if not hasattr(implementation, "forward_two_streams"):
        view = _forward(view_q, view_k, view_v, "vn", scale, False, backend)
        time = _forward(time_q, time_k, time_v, "tn", scale, False, backend)
        return *view, *time
    view = fresh.empty_like(view_q), empty_lse(view_q)
    time = fresh.empty_like(time_q), empty_lse(time_q)
    implementation.forward_two_streams((view_q, view_k, view_v), (time_q, time_k, time_v), scale, view, time)
    return *view, *time


def _two_stream_fake(view_q, view_k, view_v, time_q, time_k, time_v, scale: float, backend: str):
    return torch.empty_like(view_q), empty_lse(view_q), torch.empty_like(time_q), empty_lse(time_q)


def _two_stream_setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.scale, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1], output[3])


def _two_stream_autograd(ctx, grad_view, _, grad_time, __):
    saved = ctx.saved_tensors
    grads = []
    for axes, grad, inputs, results in (
        ("vn", grad_view, saved[0:3], saved[6:8]),
        ("tn", grad_time, saved[3:6], saved[8:10]),
    ):
        if grad is None:
            grads += [None] * 3
        else:
            grads += torch.ops.fourreal_kernels.axis_attention_backward(
                grad, None, *inputs, *results, axes, ctx.scale, False, ctx.backend
            )
    return *grads, None, None


define(
    "axis_attention(Tensor q, Tensor k, Tensor v, str axes, float scale, bool deterministic, str backend)"
    " -> (Tensor out, Tensor lse)",
    _forward,
    _forward_fake,
)
define(
    "axis_attention_out(Tensor q, Tensor k, Tensor v, str axes, float scale, bool deterministic, str backend,"
    " Tensor(a!) out, Tensor(b!)? lse) -> ()",
    _forward_out,
    _forward_out_fake,
)
define(
    "axis_attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor q, Tensor k, Tensor v, Tensor out,"
    " Tensor lse, str axes, float scale, bool deterministic, str backend) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
define(
    "two_stream_attention(Tensor view_q, Tensor view_k, Tensor view_v, Tensor time_q, Tensor time_k,"
    " Tensor time_v, float scale, str backend)"
    " -> (Tensor out_view, Tensor lse_view, Tensor out_time, Tensor lse_time)",
    _two_stream,
    _two_stream_fake,
)
differentiable("axis_attention", _autograd, _setup_context)
differentiable("two_stream_attention", _two_stream_autograd, _two_stream_setup_context)
