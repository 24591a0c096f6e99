"""``axis_attention`` with extra keys and values as ``torch.ops.fourreal_kernels`` operators, beside those without."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import dispatch
from ...grid import parse_axes
from .. import fresh
from ..library import define, differentiable
from ..memory import mark_written, require_writable
from .call import attention_call
from .registration import empty_lse, lse_for, written


def _backend(q: Tensor, extra_k: Tensor, axes: str, deterministic: bool, backend: str):
    call = attention_call(q, axes, deterministic, extra_k)
    return dispatch.load("axis_attention", dispatch.select("axis_attention", call, backend))


def _forward(q, k, v, extra_k, extra_v, axes: str, scale: float, deterministic: bool, backend: str):
    out, lse = fresh.empty_like(q), empty_lse(q)
    implementation = _backend(q, extra_k, axes, deterministic, backend)
    implementation.forward(q, k, v, parse_axes(axes), scale, out, lse, (extra_k, extra_v))
    return out, lse


def _forward_fake(q, k, v, extra_k, extra_v, axes: str, scale: float, deterministic: bool, backend: str):
    return torch.empty_like(q), empty_lse(q)


def _forward_out(
    q, k, v, extra_k, extra_v, axes: str, scale: float, deterministic: bool, backend: str, out, lse
) -> None:
    require_writable(("out", "q", "k", "v", "extra_k", "extra_v"), (out, q, k, v, extra_k, extra_v), 1)
    implementation = _backend(q, extra_k, axes, deterministic, backend)
    into = out, lse_for(implementation, q, lse)
    implementation.forward(q, k, v, parse_axes(axes), scale, *into, (extra_k, extra_v))
    mark_written(*written(out, lse))


def _forward_out_fake(q, k, v, extra_k, extra_v, axes, scale, deterministic, backend, out, lse) -> None:
    return None


def _backward(
    grad_out, grad_lse, q, k, v, extra_k, extra_v, out, lse, axes: str, scale: float, deterministic: bool, backend: str
):
    grads = (fresh.empty_like(q), fresh.empty_like(k), fresh.empty_like(v))
    extra_grads = torch.empty_like(extra_k), torch.empty_like(extra_v)
    _backend(q, extra_k, axes, deterministic, backend).backward(
        grad_out, grad_lse, q, k, v, out, lse, parse_axes(axes), scale, grads, (extra_k, extra_v), extra_grads
    )
    return *grads, *extra_grads


def _backward_fake(grad_out, grad_lse, q, k, v, extra_k, extra_v, out, lse, axes, scale, deterministic, backend):
    return tuple(torch.empty_like(x) for x in (q, k, v, extra_k, extra_v))


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.axes, ctx.scale, ctx.deterministic, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _autograd(ctx, grad_out, grad_lse):
    *tensors, out, lse = ctx.saved_tensors
    if grad_out is None:
        if grad_lse is None:
            return (None,) * 9
        grad_out = torch.zeros_like(out)
    grads = torch.ops.fourreal_kernels.axis_attention_extra_backward(
        grad_out, grad_lse, *tensors, out, lse, ctx.axes, ctx.scale, ctx.deterministic, ctx.backend
    )
    return *grads, None, None, None, None


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor extra_k, Tensor extra_v"
_OPTIONS = "str axes, float scale, bool deterministic, str backend"

define(f"axis_attention_extra({_INPUTS}, {_OPTIONS}) -> (Tensor out, Tensor lse)", _forward, _forward_fake)
define(
    f"axis_attention_extra_out({_INPUTS}, {_OPTIONS}, Tensor(a!) out, Tensor(b!)? lse) -> ()",
    _forward_out,
    _forward_out_fake,
)
define(
    f"axis_attention_extra_backward(Tensor grad_out, Tensor? grad_lse, {_INPUTS}, Tensor out, Tensor lse, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
differentiable("axis_attention_extra", _autograd, _setup_context)
