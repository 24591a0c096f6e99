"""Attention against float64 on the GPU: values, log-sum-exps and gradients, sizes, layouts, and what is written."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import fourreal_kernels as fk

from .block import Job, Result, Settings
from .helpers import attention_cases, op_layouts, op_numerics

_HALF = (torch.bfloat16, torch.float16)
_FRAMES = ("vn", "tn", "vn|tn")
_SOME_AXES = (*_FRAMES, "v", "v|t")
_SMALL = (2, 3, 4, 7, 2, 16)
_ONES = ((3, 1, 4, 5, 1, 64), (3, 4, 1, 5, 2, 64), (3, 3, 4, 1, 2, 64), (2, 1, 1, 6, 2, 64), (1, 1, 1, 1, 1, 64))
_FAR = 2**31 + 4096

Case = tuple[str, tuple[int, ...], torch.dtype, str]  # axes, shape, dtype, layout


def jobs(settings: Settings) -> Iterator[Job]:
    """Each backend on each case, forward and backward in one job."""
    cases = list(_rehearsed() if settings.small else _cases())
    for backend in settings.backends:
        for axes, shape, dtype, layout in cases:
            name = f"{backend}: {axes} {'x'.join(map(str, shape))} {op_numerics.dtype_name(dtype)} {layout}"
            yield name, lambda b=backend, c=(axes, shape, dtype, layout): check(b, *c)
        if settings.on_gpu:
            yield f"{backend}: strides beyond 2^31", lambda b=backend: _far_apart(b)


def two_stream_jobs(settings: Settings) -> Iterator[Job]:
    """The grouped launch gives what two calls give."""
    for backend in settings.backends:
        for tokens in (1, 7, 65, 100)[: 2 if settings.small else 4]:
            for layout in ("contiguous", "sliced"):
                name = f"{backend}: N {tokens} {layout}"
                yield name, lambda b=backend, n=tokens, x=layout: _two_stream(b, (2, 3, 2, n, 2, 64), x)


def _rehearsed() -> Iterator[Case]:
    yield from (("vn|tn", (1, 2, 3, 7, 1, 16), dtype, "sliced") for dtype in (torch.float32, torch.bfloat16))


def _cases() -> Iterator[Case]:
    for axes in attention_cases.AXES:
        yield from ((axes, _SMALL, dtype, "contiguous") for dtype in (torch.float32, *_HALF))
    for tokens in attention_cases.TOKENS:
        views = 3 if tokens <= 100 else 2
        for axes in _SOME_AXES:
            shape = (1, views, 2, tokens, 2, 64)
            yield from ((axes, shape, dtype, "contiguous") for dtype in (torch.float32, _HALF[0]))
    for head_dim in (16, 40, 80, 128, 256):
        yield from ((axes, (1, 2, 3, 33, 2, head_dim), dtype, "contiguous") for axes in _SOME_AXES
                    for dtype in (torch.float32, _HALF[0]))
    for layout in op_layouts.STRIDED:
        yield from ((axes, (2, 3, 2, 37, 2, 64), _HALF[0], layout) for axes in _SOME_AXES)
    for shape in _ONES:
        yield from ((axes, shape, _HALF[0], "contiguous") for axes in attention_cases.AXES)


def check(backend: str, axes: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Result:
    """The precision rule of the tests, into a poisoned output, then for the gradients."""
    values = attention_cases.random_qkv(*shape, dtype=dtype)
    inputs = [op_layouts.LAYOUTS[layout](x) for x in values]
    exact, exact_lse = attention_cases.dense_in_fp64(*values, axes)
    plain, plain_lse = attention_cases.dense_attention(*values, axes)

    place = op_numerics.poisoned(shape, dtype)
    _, lse = fk.axis_attention(*inputs, axes, return_lse=True, out=place.destination, backend=backend)
    place.assert_written_exactly()
    op_numerics.assert_close_as_pytorch(place.destination, exact, plain)
    op_numerics.assert_close_as_pytorch(lse, exact_lse, plain_lse.to(lse.dtype))
    errors = {"forward_error": op_numerics.worst_error(place.destination, exact)}
    return errors | _check_gradients(backend, axes, values, inputs)


def _check_gradients(backend: str, axes: str, values: list[Tensor], inputs: list[Tensor]) -> Result:
    grads = torch.randn(values[0].shape).to(values[0].dtype), torch.randn(values[0].shape[:5])
    ours = _gradients(lambda *x: fk.axis_attention(*x, axes, return_lse=True, backend=backend), inputs, grads)
    exact = _gradients(lambda *x: attention_cases.dense_attention(*x, axes), [x.double() for x in values], grads)
    plain = _gradients(lambda *x: attention_cases.dense_attention(*x, axes), values, grads)
    for got, expected, eager in zip(ours, exact, plain, strict=True):
        op_numerics.assert_close_as_pytorch(got, expected, eager)
    return {"backward_error": max(map(op_numerics.worst_error, ours, exact))}


def _gradients(function, inputs: list[Tensor], grads: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out, lse = function(*leaves)
    return torch.autograd.grad((out, lse), leaves, (grads[0].to(out.dtype), grads[1].to(lse.dtype)))


def _two_stream(backend: str, shape: tuple[int, ...], layout: str) -> Result:
    view, time = ([op_layouts.LAYOUTS[layout](x) for x in attention_cases.random_qkv(*shape, dtype=torch.float32)]
                  for _ in range(2))
    for axes, inputs, got in zip(("vn", "tn"), (view, time), fk.two_stream_attention(view, time, backend=backend),
                                 strict=True):
        exact, _ = attention_cases.dense_in_fp64(*inputs, axes)
        plain, _ = attention_cases.dense_attention(*inputs, axes)
        op_numerics.assert_close_as_pytorch(got, exact, plain)
    return {}


def _far_apart(backend: str) -> Result:
    """Two views whose elements lie more than 2^31 apart, for every tensor."""
    shape, dtype = (1, 2, 2, 65, 1, 64), torch.bfloat16
    size = 2 * 65 * 64
    buffer = torch.empty(_FAR + 5 * size, dtype=dtype)
    strides = (0, _FAR, 65 * 64, 64, 64, 1)
    values = attention_cases.random_qkv(*shape, dtype=dtype)
    inputs = [buffer.as_strided(shape, strides, index * size).copy_(x) for index, x in enumerate(values)]
    out = buffer.as_strided(shape, strides, 3 * size).fill_(float("nan"))
    for axes in _FRAMES:
        fk.axis_attention(*inputs, axes, out=out, backend=backend)
        exact, _ = attention_cases.dense_in_fp64(*values, axes)
        plain, _ = attention_cases.dense_attention(*values, axes)
        op_numerics.assert_close_as_pytorch(out, exact, plain)
    return {}
