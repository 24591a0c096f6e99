"""The Hopper attention kernel on the GPU, forward: small shapes first, so that a fault shows in its simplest form."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import fourreal_kernels as fk

from .block import Job, Result, Settings
from .helpers import attention_cases, op_layouts, op_numerics
from .hopper_jobs import HEADS, REPEATS, backend_of, large_jobs, small_jobs

# One tile of keys, a second stage, the ring's third turn, tails of frames, batches and heads, many tiles per block.
_SHAPES = ((1, 1, 1, 64), (1, 1, 2, 128), (1, 1, 6, 128), (1, 3, 2, 100), (2, 3, 4, 65), (1, 2, 3, 1), (1, 4, 5, 240),
           (1, 2, 2, 576), (1, 2, 2, 1560))


def jobs(settings: Settings) -> Iterator[Job]:
    """bfloat16 and float16, D = 64 and 128, every axis; layouts; two streams; large; bitwise repeats."""
    yield from small_jobs(settings, _SHAPES, 128, _check)
    for head_dim in (64, 128):
        shape = (1, 3, 5, 8 if settings.small else 104, HEADS, head_dim)
        yield f"two streams, D {head_dim}", lambda s=shape: _two_streams(backend_of(settings), s)
    yield from large_jobs(settings, _large, _repeats)


def _check(backend: str, axes: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Result:
    values = attention_cases.random_qkv(*shape, dtype=dtype)
    inputs = [op_layouts.LAYOUTS[layout](x) for x in values]
    out, lse = fk.axis_attention(*inputs, axes, return_lse=True, backend=backend)
    exact, exact_lse = attention_cases.dense_in_fp64(*values, axes)
    plain, _ = attention_cases.dense_attention(*values, axes)
    return _compare(out, exact, plain) | {"lse_error": _lse_error(lse, exact_lse)}


def _compare(out: Tensor, exact: Tensor, plain: Tensor) -> Result:
    """The precision rule; where rows are wrong, which: a pattern names the fault."""
    rows = ~((out.double() - exact).abs().amax(-1) < 0.1)
    where = rows.nonzero()[:6].tolist()
    assert not rows.any(), f"{int(rows.sum())} of {rows.numel()} rows (b, v, t, n, h) are far off, first {where}"
    op_numerics.assert_close_as_pytorch(out, exact, plain)
    return {"error": op_numerics.worst_error(out, exact), "error_of_pytorch": op_numerics.worst_error(plain, exact)}


def _lse_error(lse: Tensor, exact: Tensor) -> float:
    error = op_numerics.worst_error(lse, exact)
    assert error < 1e-3, f"log-sum-exp is off by {error:.2e}"
    return error


def _two_streams(backend: str, shape: tuple[int, ...]) -> Result:
    streams = [attention_cases.random_qkv(*shape, dtype=torch.bfloat16) for _ in range(2)]
    result: Result = {}
    results = fk.two_stream_attention(*streams, backend=backend)
    for axes, values, out in zip(("vn", "tn"), streams, results, strict=True):
        exact, _ = attention_cases.dense_in_fp64(*values, axes)
        plain, _ = attention_cases.dense_attention(*values, axes)
        result[axes] = _compare(out, exact, plain)
    return result


def _large(backend: str, axes: str, shape: tuple[int, ...]) -> Result:
    values = attention_cases.random_qkv(*shape, dtype=torch.bfloat16)
    out, lse = fk.axis_attention(*values, axes, return_lse=True, backend=backend)
    exact, exact_lse = fk.axis_attention(*(x.double() for x in values), axes, return_lse=True, backend="reference")
    plain = fk.axis_attention(*values, axes, backend="reference")
    return _compare(out, exact, plain) | {"lse_error": _lse_error(lse, exact_lse)}


def _repeats(backend: str, axes: str, shape: tuple[int, ...]) -> Result:
    values = attention_cases.random_qkv(*shape, dtype=torch.bfloat16)
    first = fk.axis_attention(*values, axes, return_lse=True, backend=backend)
    for _ in range(REPEATS):
        again = fk.axis_attention(*values, axes, return_lse=True, backend=backend)
        assert all(map(op_numerics.bitwise_equal, first, again)), "results differ from call to call"
    return {"repeats": REPEATS}
