"""``sync_exchange_norm``, its backward and its in-place form as ``torch.ops.fourreal_kernels`` operators."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import dispatch
from .. import fresh
from ..library import define, differentiable
from ..memory import mark_written, require_writable
from ..sync_exchange.call import exchange_call
from .call import TENSORS, ExchangeNormTensors

_STREAMS = "Tensor{} view, Tensor{} time, Tensor{} view_branch, Tensor{} time_branch"
_PARAMETERS = (
    "Tensor weight, Tensor? bias, Tensor? input_scale, Tensor? gate, Tensor? branch_gate, Tensor norm_scale,"
    " Tensor norm_shift, str kind, float eps, str backend"
)
_COUNT = len(TENSORS)


def _implementation(tensors: ExchangeNormTensors, kind: str, backend: str, *, in_place=False, needs_grad=False):
    call = exchange_call(tensors.view, tensors.weight, kind, in_place=in_place, needs_grad=needs_grad)
    return dispatch.load("sync_exchange_norm", dispatch.select("sync_exchange_norm", call, backend))


def _forward(*arguments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kind, eps, backend, needs_grad = arguments[_COUNT:]
    tensors = ExchangeNormTensors(*arguments[:_COUNT])
    outputs = tuple(fresh.empty_like(x) for x in (tensors.view, tensors.time) * 2)
    implementation = _implementation(tensors, kind, backend, needs_grad=needs_grad)
    implementation.forward(tensors, kind, eps, *outputs)
    return outputs


def _forward_fake(view, time, *others) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(view), torch.empty_like(time), torch.empty_like(view), torch.empty_like(time)


def _in_place(*arguments) -> None:
    kind, eps, backend = arguments[_COUNT:]
    tensors = ExchangeNormTensors(*arguments[:_COUNT])
    require_writable(TENSORS, tensors, 4)
    implementation = _implementation(tensors, kind, backend, in_place=True)
    implementation.forward(tensors, kind, eps, *arguments[:4])
    mark_written(*arguments[:4])


def _in_place_fake(*arguments) -> None:
    return None


def _absent(view: Tensor) -> Tensor:
    return view.new_empty(0)


def _backward(grad_view, grad_time, grad_view_norm, grad_time_norm, *arguments) -> tuple[Tensor, ...]:
    kind, eps, backend = arguments[_COUNT:]
    tensors = ExchangeNormTensors(*arguments[:_COUNT])
    implementation = _implementation(tensors, kind, backend, needs_grad=True)
    grads = implementation.backward((grad_view, grad_time, grad_view_norm, grad_time_norm), tensors, kind, eps)
    return tuple(
        _absent(tensors.view) if x is None else fresh.empty_like(x).copy_(grads[name])
        for name, x in zip(TENSORS, tensors, strict=True)
    )


def _backward_fake(grad_view, grad_time, grad_view_norm, grad_time_norm, *arguments) -> tuple[Tensor, ...]:
    view = arguments[0]
    return tuple(_absent(view) if x is None else torch.empty_like(x) for x in arguments[:_COUNT])


def _setup_context(ctx, inputs, output) -> None:
    ctx.kind, ctx.eps, ctx.backend, _ = inputs[_COUNT:]
    ctx.save_for_backward(*inputs[:_COUNT])


def _autograd(ctx, *grads):
    tensors = ctx.saved_tensors
    results = torch.ops.fourreal_kernels.sync_exchange_norm_backward(*grads, *tensors, ctx.kind, ctx.eps, ctx.backend)
    of_tensors = (None if x is None else grad for x, grad in zip(tensors, results, strict=True))
    return *of_tensors, None, None, None, None


define(
    f"sync_exchange_norm({_STREAMS.format('', '', '', '')}, {_PARAMETERS}, bool needs_grad)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
)
define(
    f"sync_exchange_norm_({_STREAMS.format('(a!)', '(b!)', '(c!)', '(d!)')}, {_PARAMETERS}) -> ()",
    _in_place,
    _in_place_fake,
)
define(
    "sync_exchange_norm_backward(Tensor grad_view, Tensor grad_time, Tensor grad_view_norm, Tensor grad_time_norm,"
    f" {_STREAMS.format('', '', '', '')}, {_PARAMETERS}) -> ({', '.join(['Tensor'] * _COUNT)})",
    _backward,
    _backward_fake,
)
differentiable("sync_exchange_norm", _autograd, _setup_context)
