"""The dense exchange on CPUs in chunks of rows: the results and gradients of one piece, in scratch that is bounded."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from exchange_formula import (
    KINDS,
    cast,
    exchange_arguments,
    exchange_norm_arguments,
    option_name,
    option_sets,
    plain_exchange,
    plain_exchange_norm,
)
from fourreal_kernels import native, sync_exchange, sync_exchange_norm
from fourreal_kernels.ops.sync_exchange import cpu_dense, cpu_dense_backward, cpu_rows
from op_numerics import DTYPES, LOW_PRECISION, assert_all_close_as_pytorch, assert_close_as_pytorch, dtype_name

pytestmark = pytest.mark.skipif(native.cpu_library() is None, reason=native.why_missing("cpu"))

SHAPE = (2, 2, 3, 65, 8)
"""390 rows per batch entry; chunks of 64 rows end inside frames and batch entries."""


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(cpu_rows, "SCRATCH_BYTES", 1)


def test_chunks_cover_every_row_once_within_the_scratch():
    for span, columns in (((0, 1), 1536), ((0, 36864), 1536), ((777, 36864), 2560), ((5, 70), 100_000)):
        parts = cpu_rows.chunks(span, columns, torch.float32)
        assert parts[0][0] == span[0] and parts[-1][1] == span[1]
        assert all(a[1] == b[0] for a, b in zip(parts, parts[1:], strict=False))
        longest = max(end - begin for begin, end in parts)
        assert longest * columns * 4 <= max(cpu_rows.SCRATCH_BYTES, cpu_rows.FEWEST_ROWS * columns * 4)


@pytest.mark.parametrize("options", list(option_sets()), ids=option_name)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("kind", KINDS)
def test_forward(small_chunks, kind, dtype, options):
    arguments, keywords = exchange_arguments(SHAPE, kind, "dense", options, dtype)
    exact_arguments, exact_keywords = cast(arguments, keywords, torch.float64)
    exact, plain = plain_exchange(*exact_arguments, **exact_keywords), plain_exchange(*arguments, **keywords)
    for actual, wanted, eager in zip(sync_exchange(*arguments, **keywords, backend="cpu"), exact, plain, strict=True):
        assert_close_as_pytorch(actual, wanted, eager)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("kind", KINDS)
def test_fused_forward(small_chunks, kind, dtype):
    arguments, keywords = exchange_norm_arguments(SHAPE, kind, "dense", dtype=dtype)
    exact_arguments, exact_keywords = cast(arguments, keywords, torch.float64)
    exact, plain = plain_exchange_norm(*exact_arguments, **exact_keywords), plain_exchange_norm(*arguments, **keywords)
    results = sync_exchange_norm(*arguments, **keywords, backend="cpu")
    for actual, wanted, eager in zip(results, exact, plain, strict=True):
        assert_close_as_pytorch(actual, wanted, eager)


@pytest.mark.parametrize("options", list(option_sets()), ids=option_name)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("kind", KINDS)
def test_backward(small_chunks, kind, dtype, options):
    arguments, keywords = exchange_arguments(SHAPE, kind, "dense", options, dtype)
    grads = [torch.randn(SHAPE).to(dtype) for _ in range(2)]

    def gradients(function, to_dtype, **extra):
        tensors, named = cast(arguments, keywords, to_dtype)
        leaves = [x for x in (*tensors, named["input_scale"], named["gate"]) if x is not None]
        leaves = [x.requires_grad_() for x in leaves]
        results = function(*tensors, **named, **extra)
        return torch.autograd.grad(results, leaves, [g.to(to_dtype) for g in grads])

    exact, plain = gradients(plain_exchange, torch.float64), gradients(plain_exchange, dtype)
    assert_all_close_as_pytorch(gradients(sync_exchange, dtype, backend="cpu"), exact, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_backward_of_streams_whose_dims_cannot_be_merged(small_chunks, kind):
    """Six dims go to the kernels in parts, whose products add up."""
    arguments, keywords = exchange_arguments((2, 3, 2, 5, 7, 4), kind, "dense", dtype=torch.float64)
    view = arguments[0].permute(0, 3, 1, 4, 2, 5).contiguous().permute(0, 2, 4, 1, 3, 5)
    assert not view.is_contiguous()
    gradients = []
    for function, extra in ((plain_exchange, {}), (sync_exchange, {"backend": "cpu"})):
        leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
                  for x in (view, *arguments[1:], keywords["input_scale"], keywords["gate"])]
        results = function(*leaves[:4], kind=kind, input_scale=leaves[4], gate=leaves[5], **extra)
        gradients.append(torch.autograd.grad(sum(x.square().sum() for x in results), leaves))
    for wanted, actual in zip(*gradients, strict=True):
        assert_close_as_pytorch(actual, wanted, wanted)


class Largest(TorchDispatchMode):
    """The largest storage that any torch call returned."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_scratch_does_not_grow_with_the_streams(monkeypatch, kind):
    monkeypatch.setattr(cpu_rows, "SCRATCH_BYTES", 64 << 10)
    arguments, keywords = exchange_arguments((1, 4, 4, 500, 32), kind, "dense", dtype=torch.bfloat16)
    values = (keywords["input_scale"], keywords["gate"], kind)
    with Largest() as forward:
        cpu_dense.forward(*arguments, *values, *arguments[:2])
    assert 0 < forward.bytes <= 64 << 10
    stream = arguments[0].nbytes
    with Largest() as backward:
        cpu_dense_backward.backward(*arguments[:2], *arguments, *values)
    assert backward.bytes == stream, "more than the gradients themselves"
