"""Every operator once, as a call on inputs that the caller may change: for repeats, graph replay and the sanitizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import fourreal_kernels as fk

from .helpers import attention_cases, exchange_formula, rope_formula

Results = tuple[Tensor, ...]
AXES = ("vn", "tn", "vn|tn", "n", "vtn", "v", "t", "v|t")

TINY = (1, 2, 2, 9, 2, 64)
MEDIUM = (2, 3, 2, 100, 4, 64)


@dataclass(frozen=True)
class Operation:
    """``build(backend, shape, dtype)`` gives the inputs and a call that reads them and returns new results."""

    name: str
    build: Callable[[str, tuple[int, ...], torch.dtype], tuple[list[Tensor], Callable[[], Results]]]


def operations() -> Iterator[Operation]:
    """Forward and backward of every operator."""
    for axes in AXES:
        yield Operation(f"axis_attention {axes}", _attention(axes))
        yield Operation(f"axis_attention {axes} backward", _attention_backward(axes))
    yield Operation("two_stream_attention", _two_stream)
    yield Operation("qk_norm_rope_", _norm_rope)
    yield Operation("qk_norm_rope backward", _norm_rope_backward)
    for kind in exchange_formula.KINDS:
        for form in exchange_formula.FORMS:
            yield Operation(f"sync_exchange_ {kind} {form}", _exchange(kind, form))
            yield Operation(f"sync_exchange {kind} {form} backward", _exchange_backward(kind, form))
            yield Operation(f"sync_exchange_norm_ {kind} {form}", _exchange_norm(kind, form))


def _attention(axes: str):
    def build(backend, shape, dtype):
        inputs = attention_cases.random_qkv(*shape, dtype=dtype)
        return inputs, lambda: fk.axis_attention(*inputs, axes, return_lse=True, backend=backend)

    return build


def _attention_backward(axes: str):
    def build(backend, shape, dtype):
        inputs = attention_cases.random_qkv(*shape, dtype=dtype)
        grad, scale = torch.randn(shape).to(dtype), shape[-1] ** -0.5

        def run() -> Results:
            operators = torch.ops.fourreal_kernels
            out, lse = operators.axis_attention(*inputs, axes, scale, True, backend)
            return operators.axis_attention_backward(grad, None, *inputs, out, lse, axes, scale, True, backend)

        return [*inputs, grad], run

    return build


def _two_stream(backend, shape, dtype):
    view, time = (attention_cases.random_qkv(*shape, dtype=dtype) for _ in range(2))
    return [*view, *time], lambda: fk.two_stream_attention(view, time, backend=backend)


def _norm_rope(backend, shape, dtype):
    q, k, *rest = rope_formula.norm_rope_arguments(shape, dtype, angle_dtype=torch.float32)

    def run() -> Results:
        results = q.clone(), k.clone()
        fk.qk_norm_rope_(*results, *rest, backend=backend)
        return results

    return [q, k], run


def _norm_rope_backward(backend, shape, dtype):
    arguments = rope_formula.norm_rope_arguments(shape, dtype, angle_dtype=torch.float32)
    return _gradients(lambda *x: fk.qk_norm_rope(*x, *arguments[4:], backend=backend), list(arguments[:4]))


def _streams(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``(B, V, T, N, C)`` of a grid."""
    return (*shape[:4], shape[4] * shape[5])


def _exchange(kind: str, form: str):
    def build(backend, shape, dtype):
        (view, time, *rest), keywords = exchange_formula.exchange_arguments(_streams(shape), kind, form, dtype=dtype)

        def run() -> Results:
            results = view.clone(), time.clone()
            fk.sync_exchange_(*results, *rest, **keywords, backend=backend)
            return results

        return [view, time], run

    return build


def _exchange_backward(kind: str, form: str):
    def build(backend, shape, dtype):
        arguments, keywords = exchange_formula.exchange_arguments(_streams(shape), kind, form, dtype=dtype)
        return _gradients(lambda *x: fk.sync_exchange(*x, **keywords, backend=backend), list(arguments))

    return build


def _exchange_norm(kind: str, form: str):
    def build(backend, shape, dtype):
        arguments, keywords = exchange_formula.exchange_norm_arguments(_streams(shape), kind, form, dtype=dtype)
        buffers, rest = list(arguments[:4]), arguments[4:]

        def run() -> Results:
            results = tuple(x.clone() for x in buffers)
            fk.sync_exchange_norm_(*results, *rest, **keywords, backend=backend)
            return results

        return buffers, run

    return build


def _gradients(function: Callable[..., Results], inputs: list[Tensor]) -> tuple[list[Tensor], Callable[[], Results]]:
    """The gradients of all inputs, whose values the caller may change."""
    for x in inputs:
        x.requires_grad_()
    with torch.no_grad():
        grads = [torch.randn_like(x) for x in function(*inputs)]

    def run() -> Results:
        with torch.enable_grad():
            results = function(*inputs)
        return torch.autograd.grad(results, inputs, grads)

    return [x.detach() for x in inputs], run
