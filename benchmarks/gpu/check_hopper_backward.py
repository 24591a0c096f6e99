"""The backward of the Hopper attention on the GPU: small shapes first, so that a fault shows in its simplest form."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import fourreal_kernels as fk

from .block import Job, Result, Settings
from .helpers import attention_cases, op_layouts, op_numerics
from .hopper_jobs import REPEATS, large_jobs, small_jobs

# One listed tile, a second stage, the ring's second turn, tails of frames, batches and heads, many tiles per block.
_SHAPES = ((1, 1, 1, 64), (1, 1, 2, 64), (1, 1, 5, 64), (1, 3, 2, 100), (2, 3, 4, 65), (1, 2, 3, 1), (1, 4, 5, 240),
           (1, 2, 2, 576))


def jobs(settings: Settings) -> Iterator[Job]:
    """bfloat16 and float16, D = 64 and 128, every axis, with the gradient of lse; layouts; large; bitwise repeats."""
    yield from small_jobs(settings, _SHAPES, 100, _check)
    yield from large_jobs(settings, _large, _repeats)


def _check(backend: str, axes: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Result:
    values = attention_cases.random_qkv(*shape, dtype=dtype)
    grads = torch.randn(shape).to(dtype), torch.randn(shape[:5])
    inputs = [op_layouts.LAYOUTS[layout](x) for x in values]
    ours = _gradients(lambda *x: fk.axis_attention(*x, axes, return_lse=True, backend=backend), inputs, grads)
    exact = _gradients(lambda *x: attention_cases.dense_attention(*x, axes), [x.double() for x in values], grads)
    plain = _gradients(lambda *x: attention_cases.dense_attention(*x, axes), values, grads)
    return _compare(ours, exact, plain)


def _gradients(attention, inputs: list[Tensor], grads: tuple[Tensor, Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    results = attention(*leaves)
    grads = [grad.to(result.dtype) for grad, result in zip(grads, results, strict=True)]
    return list(torch.autograd.grad(results, leaves, grads))


def _compare(ours: list[Tensor], exact: list[Tensor], plain: list[Tensor]) -> Result:
    """The precision rule; where rows are wrong, which: a pattern names the fault."""
    result: Result = {}
    for name, actual, wanted, eager in zip(("dq", "dk", "dv"), ours, exact, plain, strict=True):
        rows = ~((actual.double() - wanted).abs().amax(-1) < 0.1 * wanted.abs().amax().clamp(min=1))
        where = rows.nonzero()[:6].tolist()
        count = f"{int(rows.sum())} of {rows.numel()}"
        assert not rows.any(), f"{name}: {count} rows (b, v, t, n, h) are far off, first {where}"
        op_numerics.assert_close_as_pytorch(actual, wanted, eager)
        result[name] = op_numerics.worst_error(actual, wanted)
        result[f"{name}_of_pytorch"] = op_numerics.worst_error(eager, wanted)
    return result


def _large(backend: str, axes: str, shape: tuple[int, ...]) -> Result:
    values = attention_cases.random_qkv(*shape, dtype=torch.bfloat16)
    grads = torch.randn(shape).bfloat16(), torch.randn(shape[:5])

    def run(inputs: list[Tensor], name: str) -> list[Tensor]:
        return _gradients(lambda *x: fk.axis_attention(*x, axes, return_lse=True, backend=name), inputs, grads)

    return _compare(run(values, backend), run([x.double() for x in values], "reference"), run(values, "reference"))


def _repeats(backend: str, axes: str, shape: tuple[int, ...]) -> Result:
    leaves = [x.requires_grad_() for x in attention_cases.random_qkv(*shape, dtype=torch.bfloat16)]
    out = fk.axis_attention(*leaves, axes, backend=backend)
    grad = torch.randn(shape).bfloat16()
    first = torch.autograd.grad(out, leaves, grad, retain_graph=True)
    for _ in range(REPEATS):
        again = torch.autograd.grad(out, leaves, grad, retain_graph=True)
        assert all(map(op_numerics.bitwise_equal, first, again)), "gradients differ from call to call"
    return {"repeats": REPEATS}
