"""``sync_exchange``, its backward and its in-place form as ``torch.ops.fourreal_kernels`` operators."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import dispatch
from .. import fresh
from ..library import define, differentiable
from ..memory import mark_written, require_writable
from .call import exchange_call

_TENSORS = ("view", "time", "weight", "bias", "input_scale", "gate")
_INPUTS = (
    "Tensor view, Tensor time, Tensor weight, Tensor? bias, Tensor? input_scale, Tensor? gate, str kind, str backend"
)


def _implementation(view, weight, kind: str, backend: str, *, in_place: bool = False, needs_grad: bool = False):
    call = exchange_call(view, weight, kind, in_place=in_place, needs_grad=needs_grad)
    return dispatch.load("sync_exchange", dispatch.select("sync_exchange", call, backend))


def _forward(
    view, time, weight, bias, input_scale, gate, kind: str, backend: str, needs_grad: bool
) -> tuple[Tensor, Tensor]:
    outputs = fresh.empty_like(view), fresh.empty_like(time)
    implementation = _implementation(view, weight, kind, backend, needs_grad=needs_grad)
    implementation.forward(view, time, weight, bias, input_scale, gate, kind, *outputs)
    return outputs


def _forward_fake(view, time, weight, bias, input_scale, gate, kind: str, backend: str, needs_grad: bool):
    return torch.empty_like(view), torch.empty_like(time)


def _in_place(view, time, weight, bias, input_scale, gate, kind: str, backend: str) -> None:
    require_writable(_TENSORS, (view, time, weight, bias, input_scale, gate), 2)
    implementation = _implementation(view, weight, kind, backend, in_place=True)
    implementation.forward(view, time, weight, bias, input_scale, gate, kind, view, time)
    mark_written(view, time)


def _in_place_fake(view, time, weight, bias, input_scale, gate, kind: str, backend: str) -> None:
    return None


def _absent(view: Tensor) -> Tensor:
    return view.new_empty(0)


def _stored(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient in the dtype of ``x`` and the strides that its fake promises."""
    if gradient.dtype == x.dtype and gradient.stride() == fresh.strides_like(x):
        return gradient
    return fresh.empty_like(x).copy_(gradient)


def _backward(grad_view, grad_time, view, time, weight, bias, input_scale, gate, kind: str, backend: str):
    implementation = _implementation(view, weight, kind, backend, needs_grad=True)
    grads = implementation.backward(grad_view, grad_time, view, time, weight, bias, input_scale, gate, kind)
    results = []
    for name, x in zip(_TENSORS, (view, time, weight, bias, input_scale, gate), strict=True):
        results.append(_absent(view) if x is None else _stored(getattr(grads, name), x))
    return tuple(results)


def _backward_fake(grad_view, grad_time, view, time, weight, bias, input_scale, gate, kind: str, backend: str):
    inputs = (view, time, weight, bias, input_scale, gate)
    return tuple(_absent(view) if x is None else torch.empty_like(x) for x in inputs)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.kind, ctx.backend, _ = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx, grad_view, grad_time):
    tensors = ctx.saved_tensors
    grads = torch.ops.fourreal_kernels.sync_exchange_backward(
        grad_view, grad_time, *tensors, ctx.kind, ctx.backend
    )
    return *(None if x is None else grad for x, grad in zip(tensors, grads, strict=True)), None, None, None


define(f"sync_exchange({_INPUTS}, bool needs_grad) -> (Tensor, Tensor)", _forward, _forward_fake)
define(
    "sync_exchange_(Tensor(a!) view, Tensor(b!) time, Tensor weight, Tensor? bias, Tensor? input_scale,"
    " Tensor? gate, str kind, str backend) -> ()",
    _in_place,
    _in_place_fake,
)
define(
    f"sync_exchange_backward(Tensor grad_view, Tensor grad_time, {_INPUTS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
differentiable("sync_exchange", _autograd, _setup_context)
