"""``sync_exchange_norm``: against the formula in fp64, as a composition, strides, guards and gradients, per backend."""

from __future__ import annotations

import pytest
import torch

from exchange_cases import WRITABLE_LAYOUTS as LAYOUTS
from exchange_formula import (
    FORMS,
    KINDS,
    NORM_OPTIONS,
    cast,
    exchange_norm_arguments,
    norm_option_sets,
    option_name,
    plain_exchange_norm,
)
from fourreal_kernels import sync_exchange, sync_exchange_norm, sync_exchange_norm_
from op_backends import backends, can_run
from op_numerics import DTYPES, LOW_PRECISION, assert_close_as_pytorch, bitwise_equal, dtype_name

BACKENDS = backends("sync_exchange_norm")
OP = "sync_exchange_norm"
SHAPES = [(3, 2, 3, 5, 12), (3, 1, 4, 7, 17), (2, 4, 1, 65, 8), (4, 6), (2, 5, 3), (2, 2, 2, 3, 2, 5)]
CHANNELS = [2, 7, 40, 512]
PLACES = [("sliced", "permuted", "packed", "contiguous"), ("permuted",) * 4, ("packed", "sliced", "sliced", "packed")]
"""Layouts of view, time, view_branch and time_branch."""
GRADIENT_OPTIONS = [(), ("bias",), ("input_scale", "branch_gate"), ("bias", "gate"), NORM_OPTIONS]


def check_forward(backend, arguments, keywords):
    if not can_run(OP, backend, *arguments, **keywords):
        return
    exact_arguments, exact_keywords = cast(arguments, keywords, torch.float64)
    expected = plain_exchange_norm(*exact_arguments, **exact_keywords)
    plain = plain_exchange_norm(*arguments, **keywords)
    results = sync_exchange_norm(*arguments, **keywords, backend=backend)
    assert isinstance(results, tuple) and len(results) == 4
    for actual, exact, eager in zip(results, expected, plain, strict=True):
        assert_close_as_pytorch(actual, exact, eager)


@pytest.mark.parametrize("options", list(norm_option_sets()), ids=option_name)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_formula(backend, kind, form, dtype, options):
    check_forward(backend, *exchange_norm_arguments((3, 2, 3, 7, 16), kind, form, options, dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_shapes(backend, kind, form, shape):
    check_forward(backend, *exchange_norm_arguments(shape, kind, form))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_channel_counts(backend, kind, form, dtype, channels):
    check_forward(backend, *exchange_norm_arguments((2, 2, 1, 3, channels), kind, form, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_channel_is_normalised_to_its_shift(backend, kind, form, dtype):
    """A row of one channel is its own mean."""
    arguments, keywords = exchange_norm_arguments((2, 2, 1, 3, 1), kind, form, dtype=dtype)
    if not can_run(OP, backend, *arguments, **keywords):
        return
    norms = sync_exchange_norm(*arguments, **keywords, backend=backend)[2:]
    for norm, shift in zip(norms, keywords["norm_shift"].unbind(1), strict=True):
        assert bitwise_equal(norm, shift.view(2, 1, 1, 1, 1).expand_as(norm))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_many_rows_and_a_large_mean(backend, kind, form):
    """Rows of several chunks and threads; a mean of 100 standard deviations, which a one-pass variance would lose."""
    arguments, keywords = exchange_norm_arguments((2, 3, 5, 65, 64), kind, form)
    arguments = (arguments[0] + 100, arguments[1] + 100, *arguments[2:])
    check_forward(backend, arguments, keywords)


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.5])
@pytest.mark.parametrize("backend", BACKENDS)
def test_eps_is_inside_the_root(backend, eps):
    arguments, keywords = exchange_norm_arguments((2, 2, 1, 3, 8), "soft", "per channel")
    check_forward(backend, arguments, {**keywords, "eps": eps})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_branch_the_streams_are_those_of_the_exchange(backend, kind):
    (view, time, *_, weight, bias), keywords = exchange_norm_arguments((2, 2, 3, 5, 16), kind, "per channel")
    zeros = torch.zeros_like(view)
    of_exchange = {name: keywords[name] for name in ("kind", "input_scale", "gate")}
    if not can_run(OP, backend, view, time, zeros, zeros, weight, bias, **keywords):
        return
    actual = sync_exchange_norm(view, time, zeros, zeros, weight, bias, **keywords, backend=backend)[:2]
    for x, wanted in zip(actual, sync_exchange(view, time, weight, bias, **of_exchange, backend=backend), strict=True):
        assert bitwise_equal(x, wanted)


def placed(streams, layouts):
    """The streams in memory between guards, by layouts of ``exchange_cases``."""
    regions = [LAYOUTS[name](tuple(x.shape), x.dtype, "cpu") for x, name in zip(streams, layouts, strict=True)]
    for region, x in zip(regions, streams, strict=True):
        region.tensor.copy_(x)
    return regions


@pytest.mark.parametrize("layouts", PLACES, ids="-".join)
@pytest.mark.parametrize("channels", [7, 40])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_and_guards(backend, kind, form, dtype, channels, layouts):
    """The functional form reads any strides; the in-place form writes what it returns, and nothing else."""
    arguments, keywords = exchange_norm_arguments((3, 2, 3, 5, channels), kind, form, dtype=dtype)
    if not can_run(OP, backend, *arguments, **keywords):
        return
    streams, parameters = arguments[:4], arguments[4:]
    regions = placed(streams, layouts)
    strided = [region.tensor for region in regions]
    exact_arguments, exact_keywords = cast(arguments, keywords, torch.float64)
    exact, plain = plain_exchange_norm(*exact_arguments, **exact_keywords), plain_exchange_norm(*arguments, **keywords)
    expected = sync_exchange_norm(*strided, *parameters, **keywords, backend=backend)
    for actual, wanted, eager in zip(expected, exact, plain, strict=True):
        assert_close_as_pytorch(actual, wanted, eager)
    if form == "per channel" and backend != "reference":
        dense = sync_exchange_norm(*arguments, **keywords, backend=backend)
        assert all(bitwise_equal(x, y) for x, y in zip(expected, dense, strict=True))
    assert all(bitwise_equal(x, y) for x, y in zip(strided, streams, strict=True)), "an input changed"
    assert sync_exchange_norm_(*strided, *parameters, **keywords, backend=backend) is None
    assert all(bitwise_equal(x, y) for x, y in zip(strided, expected, strict=True))
    assert all(region.outside_is_untouched() for region in regions), "memory outside a stream changed"


@pytest.mark.parametrize("backend", BACKENDS)
def test_expanded_inputs(backend):
    arguments, keywords = exchange_norm_arguments((2, 2, 3, 5, 8), "soft", "dense")
    repeated = [x[:, :1, :, :1].expand(2, 2, 3, 5, 8) for x in arguments[:4]]
    check_forward(backend, (*repeated, *arguments[4:]), keywords)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_token(backend, kind, form):
    arguments, keywords = exchange_norm_arguments((2, 2, 3, 5, 8), kind, form)
    clean = sync_exchange_norm(*arguments, **keywords, backend=backend)
    arguments[2][1, 0, 2, 3] = float("nan")
    reached = torch.zeros(2, 2, 3, 5, dtype=torch.bool)
    reached[1, 0, 2, 3] = True
    for result, before in zip(sync_exchange_norm(*arguments, **keywords, backend=backend), clean, strict=True):
        assert torch.equal(result[~reached], before[~reached])
        assert result[reached].isnan().all() or (kind == "soft" and form == "per channel")


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_thread_count_does_not_change_the_bits_per_channel(backend, kind, dtype):
    arguments, keywords = exchange_norm_arguments((3, 2, 2, 129, 100), kind, "per channel", dtype=dtype)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(sync_exchange_norm(*arguments, **keywords, backend=backend))
    finally:
        torch.set_num_threads(threads)
    assert all(bitwise_equal(x, y) for x, y in zip(*results, strict=True))


def leaves_of(arguments, keywords):
    """The tensors among the arguments, as leaves that require grad, and a function that calls with them."""
    optional = ["input_scale", "gate", "branch_gate", "norm_scale", "norm_shift"]
    names = ["view", "time", "view_branch", "time_branch", "weight", "bias", *optional]
    values = [*arguments, *(keywords[name] for name in optional)]
    present = [name for name, x in zip(names, values, strict=True) if x is not None]
    leaves = [x.detach().clone().requires_grad_() for x in values if x is not None]

    def call(function, *tensors, **extra):
        given = dict.fromkeys(names) | dict(zip(present, tensors, strict=True))
        return function(**given, kind=keywords["kind"], **extra)

    return leaves, call


@pytest.mark.parametrize("options", GRADIENT_OPTIONS, ids=option_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend, kind, form, options):
    arguments, keywords = exchange_norm_arguments((2, 1, 1, 2, 3), kind, form, options, torch.float64)
    leaves, call = leaves_of(arguments, keywords)
    torch.autograd.gradcheck(lambda *x: call(sync_exchange_norm, *x, eps=0.1, backend=backend), leaves)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_in_low_precision(backend, kind, form, dtype):
    shape = (2, 2, 3, 5, 32)  # of fewer channels some row has a tiny variance, and its chance error decides
    arguments, keywords = exchange_norm_arguments(shape, kind, form, dtype=dtype)
    grads = [torch.randn(shape).to(dtype) for _ in range(4)]

    def gradients(function, to_dtype, **extra):
        leaves, call = leaves_of(*cast(arguments, keywords, to_dtype))
        torch.autograd.backward(call(function, *leaves, **extra), [g.to(to_dtype) for g in grads])
        return [leaf.grad for leaf in leaves]

    actual = gradients(sync_exchange_norm, dtype, backend=backend)
    exact, plain = gradients(plain_exchange_norm, torch.float64), gradients(plain_exchange_norm, dtype)
    for gradient, wanted, eager in zip(actual, exact, plain, strict=True):
        assert_close_as_pytorch(gradient, wanted, eager)


@pytest.mark.parametrize("used", range(4))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_one_result_with_expanded_grad_out(backend, kind, used):
    arguments, keywords = exchange_norm_arguments((2, 2, 3, 5, 8), kind, "per channel", dtype=torch.float64)
    leaves, call = leaves_of(arguments, keywords)
    call(sync_exchange_norm, *leaves, backend=backend)[used].sum().backward()
    copies, plain_call = leaves_of(arguments, keywords)
    plain_call(plain_exchange_norm, *copies)[used].sum().backward()
    largest = max(copy.grad.abs().max().item() for copy in copies if copy.grad is not None)
    for leaf, copy in zip(leaves, copies, strict=True):
        wanted = torch.zeros_like(copy) if copy.grad is None else copy.grad
        assert (leaf.grad - wanted).abs().max().item() <= 1e-11 * largest


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_when_compiled(kind, form):
    """With gradients through the functional form, and with writes through the in-place one."""
    arguments, keywords = exchange_norm_arguments((2, 2, 3, 4, 6), kind, form)
    leaves, call = leaves_of(arguments, keywords)
    copies = [x.detach().clone().requires_grad_() for x in leaves]
    wanted = call(sync_exchange_norm, *leaves)
    actual = torch.compile(lambda *x: call(sync_exchange_norm, *x), backend="aot_eager", fullgraph=True)(*copies)
    for results in (wanted, actual):
        sum(x.square().sum() for x in results).backward()
    assert all(bitwise_equal(x, y) and x.stride() == y.stride() for x, y in zip(actual, wanted, strict=True))
    assert all(bitwise_equal(x.grad, y.grad) for x, y in zip(copies, leaves, strict=True))
    buffers = [x.detach().clone() for x in leaves]
    with torch.no_grad():
        torch.compile(lambda *x: call(sync_exchange_norm_, *x), backend="aot_eager", fullgraph=True)(*buffers)
    assert all(bitwise_equal(x, y.detach()) for x, y in zip(buffers, wanted, strict=False))
