"""``torch.compile``: one graph, one compilation for every batch size, the results of eager."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from attention_cases import random_qkv
from exchange_formula import exchange_arguments
from fourreal_kernels import (
    axis_attention,
    merge_attention,
    qk_norm_rope,
    qk_norm_rope_,
    sync_exchange,
    sync_exchange_,
    two_stream_attention,
)
from op_numerics import assert_close_as_pytorch, bitwise_equal
from operator_layer import Layer, streams
from rope_formula import norm_rope_arguments

GRID = (2, 3, 4, 2, 8)
BATCHES = (2, 3, 5)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def attention_inputs(batch):
    return random_qkv(batch, *GRID)


def exchange_inputs(batch):
    (view, time, weight, bias), keywords = exchange_arguments((batch, 2, 3, 4, 6), "soft", "dense")
    return [view, time, weight, bias, keywords["input_scale"], keywords["gate"]]


def rope_inputs(batch):
    return list(norm_rope_arguments((batch, *GRID), angle_shape=(1, 1, 3, 1, 4)))


def attention(axes):
    return lambda q, k, v: axis_attention(q, k, v, axes, return_lse=True)


def attention_out(q, k, v):
    out = torch.empty_like(q)
    _, lse = axis_attention(q, k, v, "vn|tn", out=out, return_lse=True)
    return out, lse


def exchange(view, time, weight, bias, scale, gate):
    return sync_exchange(view * 2, time, weight, bias, kind="soft", input_scale=scale, gate=gate)


def exchange_in_place(view, time, weight, bias, scale, gate):
    view, time = view * 2, time + 1
    sync_exchange_(view, time, weight, bias, kind="soft", input_scale=scale, gate=gate)
    return view + time, view


def rope_in_place(q, k, q_weight, k_weight, cos, sin):
    q, k = q * 2, k + 1
    qk_norm_rope_(q, k, q_weight, k_weight, cos, sin)
    return q, k * 2


DIFFERENTIABLE = {
    "axis_attention vn": (attention("vn"), attention_inputs),
    "axis_attention v|t": (attention("v|t"), attention_inputs),
    "axis_attention vn|tn": (attention("vn|tn"), attention_inputs),
    "two_stream_attention": (
        lambda *x: two_stream_attention(x[:3], x[3:]), lambda b: attention_inputs(b) + attention_inputs(b)),
    "merge_attention": (
        lambda a, b, la, lb: merge_attention([a, b], [la, lb]),
        lambda b: [*attention_inputs(b)[:2], torch.randn(b, *GRID[:-1]), torch.randn(b, *GRID[:-1])]),
    "sync_exchange": (exchange, exchange_inputs),
    "qk_norm_rope": (lambda *x: qk_norm_rope(*x), rope_inputs),
}
WRITING = {
    "axis_attention out=": (attention_out, attention_inputs),
    "sync_exchange_": (exchange_in_place, exchange_inputs),
    "qk_norm_rope_": (rope_in_place, rope_inputs),
}


def run_batches(function, inputs, needs_grad):
    """Compile for B = 2 and run B = 2, 3, 5; the number of compilations."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, fullgraph=True)
    for batch in BATCHES:
        eager = [x.requires_grad_(needs_grad and index < 4) for index, x in enumerate(inputs(batch))]
        copies = [x.detach().clone().requires_grad_(x.requires_grad) for x in eager]
        for x in copies:
            if x.shape[:1] == (batch,):
                torch._dynamo.mark_dynamic(x, 0)
        wanted, actual = function(*eager), compiled(*copies)
        assert all(bitwise_equal(a, b) and a.stride() == b.stride() for a, b in zip(actual, wanted, strict=True))
        if needs_grad:
            sum(x.square().sum() for x in wanted).backward()
            sum(x.square().sum() for x in actual).backward()
            assert all(x.grad is None or bitwise_equal(x.grad, y.grad) for x, y in zip(copies, eager, strict=True))
            assert copies[0].grad is not None
    return counter.frame_count


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_one_compilation_for_every_batch_size_with_gradients(name):
    assert run_batches(*DIFFERENTIABLE[name], needs_grad=True) == 1


@pytest.mark.parametrize("name", WRITING)
def test_one_compilation_for_every_batch_size_when_writing(name):
    assert run_batches(*WRITING[name], needs_grad=False) == 1


def compiled_and_eager(function, *arguments, backend="aot_eager"):
    """Results and arguments after a compiled call and after an eager call on copies."""
    copies = [x.clone() for x in arguments]
    wanted = function(*copies)
    torch._dynamo.reset()
    actual = torch.compile(function, backend=backend, fullgraph=True)(*arguments)
    return [*actual, *arguments], [*wanted, *copies]


def cloned_second(x, weight):
    y = x.clone()
    sync_exchange_(x, y, weight, kind="soft")
    return y, x * 2


def cloned_first(x, weight):
    y = x.clone()
    sync_exchange_(y, x, weight, kind="soft")
    return y, x * 2


def original_is_used_afterwards(x, weight):
    before, y = x * 3, x.clone()
    sync_exchange_(y, x, weight, kind="hard")
    return before, y + x


def slots_of_one_buffer(buffer, weight):
    view, time = buffer[..., 0, :], buffer[..., 1, :]
    sync_exchange_(view, time, weight, kind="soft")
    return view + time, buffer * 2


def twice(x, weight):
    y = x + 1
    sync_exchange_(x, y, weight, kind="soft")
    sync_exchange_(y, x, weight, kind="soft")
    return x, y


def written_input(x, weight):
    y = torch.ones_like(x)
    sync_exchange_(x, y, weight, kind="soft")
    return (y,)


def packed_projection(packed, q_weight):
    q, k, v = packed.unbind(4)
    qk_norm_rope_(q, k, q_weight, q_weight, None, None)
    return q + k + v, packed * 2


def out_into_a_slice(packed):
    q, k, v, out = packed.unbind(4)
    axis_attention(q, k, v, "vn", out=out)
    return out + q, packed * 1


ALIASING = {
    cloned_second: lambda: (torch.randn(3, 5, 4), torch.randn(8, 8)),
    cloned_first: lambda: (torch.randn(3, 5, 4), torch.randn(8, 8)),
    original_is_used_afterwards: lambda: (torch.randn(3, 5, 4), torch.randn(4, 8)),
    slots_of_one_buffer: lambda: (torch.randn(3, 5, 2, 4), torch.randn(8, 8)),
    twice: lambda: (torch.randn(3, 5, 4), torch.randn(8, 8)),
    written_input: lambda: (torch.randn(3, 5, 4), torch.randn(8, 8)),
    packed_projection: lambda: (torch.randn(1, 2, 2, 3, 3, 2, 8), torch.randn(8)),
    out_into_a_slice: lambda: (torch.randn(1, 2, 2, 3, 4, 2, 8),),
}


@pytest.mark.parametrize("pattern", ALIASING, ids=lambda function: function.__name__)
def test_aliasing_patterns_of_in_place_forms(pattern):
    """Results, and the arguments that were written, equal those of eager."""
    actual, wanted = compiled_and_eager(pattern, *ALIASING[pattern]())
    assert all(bitwise_equal(a, b) for a, b in zip(actual, wanted, strict=True))


def test_buffers_that_overlap_are_refused_at_run_time():
    def overlapping(x, weight):
        sync_exchange_(x[1:], x[:-1], weight, kind="soft")
        return (x,)

    x, weight = torch.randn(4, 5, 4), torch.randn(8, 8)
    before = x.clone()
    with pytest.raises(ValueError, match="shares memory with time"):
        overlapping(x, weight)
    assert bitwise_equal(x, before)


def test_argument_errors_keep_their_message_in_a_compiled_function():
    q, k, v = random_qkv(1, *GRID)
    compiled = torch.compile(lambda q, k, v: axis_attention(q, k, v, "vx"), backend="aot_eager")
    with pytest.raises(Exception, match="axes: got 'vx'"):
        compiled(q, k, v)


def test_compiling_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.compile(attention("vn|tn"), backend="aot_eager", fullgraph=True)(*random_qkv(1, *GRID))


def test_scales_given_as_numbers():
    compiled = torch.compile(
        lambda q, k, v, scale: axis_attention(q, k, v, "vn", scale=scale), backend="aot_eager", fullgraph=True
    )
    qkv = random_qkv(1, *GRID)
    for scale in (0.3, 0.4, 1):
        assert bitwise_equal(compiled(*qkv, scale), axis_attention(*qkv, "vn", scale=scale))


def test_tokens_and_views_may_change_too():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attention("vn|tn"), backend=counter, fullgraph=True, dynamic=True)
    for shape in ((2, 3, 4, 7, 5, 8), (3, 6, 2, 11, 5, 8), (4, 2, 6, 100, 5, 8)):
        qkv = random_qkv(*shape)
        wanted = axis_attention(*qkv, "vn|tn", return_lse=True)
        assert all(bitwise_equal(a, b) for a, b in zip(compiled(*qkv), wanted, strict=True))
    assert counter.frame_count == 1


def test_a_whole_layer_trains_as_in_eager():
    layer = Layer()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    inputs = streams(2)
    gradients = []
    for module in (layer, compiled):
        layer.zero_grad()
        sum(x.square().sum() for x in module(*inputs)).backward()
        gradients.append([p.grad.clone() for p in layer.parameters()])
    for eager, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, eager)


@pytest.mark.slow
def test_inductor_layer_and_aliasing():
    """The default compiler: a layer with its gradients, and the in-place patterns that its functionalization keeps.

    ``cloned_first`` is left to aot_eager: where a mutating operator receives a clone together with its source,
    Inductor may swap the two and return the source as the clone (pytorch/pytorch#198031), for any mutating operator.
    """
    layer, inputs = Layer(), streams(2)
    compiled = torch.compile(layer, fullgraph=True)
    in_fp64 = copy.deepcopy(layer).double()(*(x.double() for x in inputs))
    for actual, exact, eager in zip(compiled(*inputs), in_fp64, layer(*inputs), strict=True):
        assert_close_as_pytorch(actual, exact, eager)
    sum(x.square().sum() for x in compiled(*inputs)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    for pattern in (p for p in ALIASING if p is not cloned_first):
        actual, wanted = compiled_and_eager(pattern, *ALIASING[pattern](), backend="inductor")
        for a, b in zip(actual, wanted, strict=True):
            torch.testing.assert_close(a, b)
