"""``qk_norm_rope``, its backward and its in-place form as ``torch.ops.fourreal_kernels`` operators."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import dispatch
from .. import fresh
from ..library import define, differentiable
from ..memory import mark_written, require_writable
from .call import norm_rope_call

_TENSORS = ("q", "k", "q_weight", "k_weight", "cos", "sin")
_INPUTS = (
    "Tensor q, Tensor k, Tensor? q_weight, Tensor? k_weight, Tensor? cos, Tensor? sin, float eps, str backend"
)


def _implementation(q, q_weight, cos, backend: str, *, in_place: bool = False):
    call = norm_rope_call(q, q_weight, cos, in_place=in_place)
    return dispatch.load("qk_norm_rope", dispatch.select("qk_norm_rope", call, backend))


def _forward(q, k, q_weight, k_weight, cos, sin, eps: float, backend: str) -> tuple[Tensor, Tensor]:
    out_q, out_k = fresh.empty_like(q), fresh.empty_like(k)
    _implementation(q, q_weight, cos, backend).forward(q, k, q_weight, k_weight, cos, sin, eps, out_q, out_k)
    return out_q, out_k


def _forward_fake(q, k, q_weight, k_weight, cos, sin, eps: float, backend: str):
    return torch.empty_like(q), torch.empty_like(k)


def _in_place(q, k, q_weight, k_weight, cos, sin, eps: float, backend: str) -> None:
    require_writable(_TENSORS, (q, k, q_weight, k_weight, cos, sin), 2)
    implementation = _implementation(q, q_weight, cos, backend, in_place=True)
    implementation.forward(q, k, q_weight, k_weight, cos, sin, eps, q, k)
    mark_written(q, k)


def _in_place_fake(q, k, q_weight, k_weight, cos, sin, eps: float, backend: str) -> None:
    return None


def _backward(grad_q, grad_k, q, k, q_weight, k_weight, cos, sin, eps: float, backend: str):
    dq, dk = fresh.empty_like(q), fresh.empty_like(k)
    implementation = _implementation(q, q_weight, cos, backend)
    grads = implementation.backward(grad_q, grad_k, q, k, q_weight, k_weight, cos, sin, eps, dq, dk)
    return dq, dk, *(_like(weight, grad, q) for weight, grad in zip((q_weight, k_weight), grads, strict=True))


def _like(weight: Tensor | None, grad: Tensor | None, q: Tensor) -> Tensor:
    """The gradient in the dtype and layout of the weight; an empty tensor where there is none."""
    return q.new_empty(0) if weight is None else torch.empty_like(weight).copy_(grad)


def _backward_fake(grad_q, grad_k, q, k, q_weight, k_weight, cos, sin, eps: float, backend: str):
    weights = (q.new_empty(0) if weight is None else torch.empty_like(weight) for weight in (q_weight, k_weight))
    return torch.empty_like(q), torch.empty_like(k), *weights


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.eps, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx, grad_q, grad_k):
    tensors = ctx.saved_tensors
    dq, dk, dq_weight, dk_weight = torch.ops.fourreal_kernels.qk_norm_rope_backward(
        grad_q, grad_k, *tensors, ctx.eps, ctx.backend
    )
    weights = (None, None) if tensors[2] is None else (dq_weight, dk_weight)
    return dq, dk, *weights, None, None, None, None


define(f"qk_norm_rope({_INPUTS}) -> (Tensor, Tensor)", _forward, _forward_fake)
define(
    "qk_norm_rope_(Tensor(a!) q, Tensor(b!) k, Tensor? q_weight, Tensor? k_weight, Tensor? cos, Tensor? sin,"
    " float eps, str backend) -> ()",
    _in_place,
    _in_place_fake,
)
define(
    f"qk_norm_rope_backward(Tensor grad_q, Tensor grad_k, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
differentiable("qk_norm_rope", _autograd, _setup_context)
