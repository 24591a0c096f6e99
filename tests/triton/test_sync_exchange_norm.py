"""``sync_exchange_norm`` by Triton kernels: against the formula in fp64, forward, backward and in place."""

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
    option_name,
    plain_exchange,
    plain_exchange_norm,
)
from fourreal_kernels import explain, sync_exchange_norm, sync_exchange_norm_
from fourreal_kernels.ops.sync_exchange import gpu_chunks
from op_numerics import assert_close_as_pytorch, bitwise_equal

SHAPES = [
    ((2, 1, 3, 5, 40), torch.float32), ((2, 2, 1, 5, 40), torch.bfloat16), ((2, 2, 1, 5, 128), torch.float16),
    ((1, 2, 2, 7, 17), torch.bfloat16), ((1, 1, 1, 65, 64), torch.float32), ((1, 1, 1, 100, 8), torch.bfloat16),
    ((2, 6), torch.float32), ((1, 5, 3), torch.bfloat16), ((1, 2, 2, 3, 2, 5), torch.float32),
]
OPTION_SETS = [(), ("bias",), ("input_scale", "branch_gate"), ("bias", "gate"), NORM_OPTIONS]
PLACES = [("sliced", "permuted", "packed", "contiguous"), ("permuted",) * 4, ("packed", "sliced", "sliced", "packed")]
"""Layouts of view, time, view_branch and time_branch."""


def check_forward(arguments, keywords):
    exact_arguments, exact_keywords = cast(arguments, keywords, torch.float64)
    expected = plain_exchange_norm(*exact_arguments, **exact_keywords)
    plain = plain_exchange_norm(*arguments, **keywords)
    results = sync_exchange_norm(*arguments, **keywords, backend="triton")
    for actual, exact, eager in zip(results, expected, plain, strict=True):
        assert_close_as_pytorch(actual, exact, eager)


@pytest.mark.parametrize("shape, dtype", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind, form, shape, dtype):
    check_forward(*exchange_norm_arguments(shape, kind, form, dtype=dtype))


@pytest.mark.parametrize("options", OPTION_SETS, ids=option_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_options(kind, form, options):
    check_forward(*exchange_norm_arguments((1, 2, 1, 7, 16), kind, form, options, torch.bfloat16))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_channel_is_normalised_to_its_shift(kind, form):
    """A row of one channel is its own mean."""
    arguments, keywords = exchange_norm_arguments((2, 2, 1, 3, 1), kind, form, dtype=torch.bfloat16)
    norms = sync_exchange_norm(*arguments, **keywords, backend="triton")[2:]
    for norm, shift in zip(norms, keywords["norm_shift"].unbind(1), strict=True):
        assert bitwise_equal(norm, shift.view(2, 1, 1, 1, 1).expand_as(norm))


@pytest.mark.parametrize("form", FORMS)
def test_a_large_mean(form):
    """100 standard deviations, which a variance in one pass would lose."""
    arguments, keywords = exchange_norm_arguments((1, 1, 3, 17, 64), "soft", form)
    check_forward((arguments[0] + 100, arguments[1] + 100, *arguments[2:]), keywords)


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_eps_is_inside_the_root(eps):
    arguments, keywords = exchange_norm_arguments((1, 2, 1, 3, 8), "soft", "per channel")
    check_forward(arguments, {**keywords, "eps": eps})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_branch_the_streams_are_those_of_the_exchange(kind, form):
    (view, time, *_, weight, bias), keywords = exchange_norm_arguments((1, 2, 3, 5, 16), kind, form)
    zeros = torch.zeros_like(view)
    of_exchange = {name: keywords[name] for name in ("kind", "input_scale", "gate")}
    actual = sync_exchange_norm(view, time, zeros, zeros, weight, bias, **keywords, backend="triton")[:2]
    exact_arguments, exact_keywords = cast((view, time, weight, bias), of_exchange, torch.float64)
    expected = plain_exchange(*exact_arguments, **exact_keywords)
    plain = plain_exchange(view, time, weight, bias, **of_exchange)
    for x, exact, eager in zip(actual, expected, plain, strict=True):
        assert_close_as_pytorch(x, exact, eager)


def placed(streams, layouts):
    """The streams in memory between guards, by layouts of ``exchange_cases``."""
    regions = [LAYOUTS[name](tuple(x.shape), x.dtype, "cpu") for x, name in zip(streams, layouts, strict=True)]
    for region, x in zip(regions, streams, strict=True):
        region.tensor.copy_(x)
    return regions


@pytest.mark.parametrize("layouts", PLACES, ids="-".join)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_strides_guards_and_in_place(kind, form, layouts):
    """The functional form reads any strides; the in-place form writes what it returns, and nothing else."""
    arguments, keywords = exchange_norm_arguments((1, 2, 3, 5, 40), kind, form, dtype=torch.bfloat16)
    streams, parameters = arguments[:4], arguments[4:]
    regions = placed(streams, layouts)
    strided = [region.tensor for region in regions]
    expected = sync_exchange_norm(*streams, *parameters, **keywords, backend="triton")
    of_strided = sync_exchange_norm(*strided, *parameters, **keywords, backend="triton")
    assert all(bitwise_equal(actual, wanted) for actual, wanted in zip(of_strided, expected, strict=True))
    assert all(bitwise_equal(actual, wanted) for actual, wanted in zip(strided, streams, strict=True))
    sync_exchange_norm_(*strided, *parameters, **keywords, backend="triton")
    for region, wanted in zip(regions, expected, strict=True):
        assert bitwise_equal(region.tensor, wanted)
        assert region.outside_is_untouched()


@pytest.mark.parametrize("form", FORMS)
def test_nan_stays_in_its_token(form):
    arguments, keywords = exchange_norm_arguments((2, 1, 3, 5, 8), "soft", form)
    clean = sync_exchange_norm(*arguments, **keywords, backend="triton")
    arguments[1][1, 0, 2, 3] = float("nan")
    reached = torch.zeros(arguments[1].shape[:-1], dtype=torch.bool)
    reached[1, 0, 2, 3] = True
    results = sync_exchange_norm(*arguments, **keywords, backend="triton")
    for result, before in zip(results, clean, strict=True):
        assert torch.equal(result[~reached], before[~reached]) and result[reached].isnan().all()


@pytest.mark.parametrize("fewest", [40, 9])
def test_many_chunks_of_dense_rows(fewest, monkeypatch):
    """Parts of a batch entry, and several whole entries."""
    monkeypatch.setattr(gpu_chunks, "SCRATCH_BYTES", 1)
    monkeypatch.setattr(gpu_chunks, "FEWEST_ROWS", fewest)
    check_forward(*exchange_norm_arguments((3, 1, 1, 11, 8), "soft", "dense"))


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


def check_gradients(arguments, keywords):
    shape, dtype = arguments[0].shape, arguments[0].dtype
    grads = [torch.randn(shape).to(dtype) for _ in range(4)]

    def gradients(function, to_dtype, **extra):
        leaves, call = leaves_of(*cast(arguments, keywords, to_dtype))
        torch.autograd.backward(call(function, *leaves, **extra), [g.to(to_dtype) for g in grads])
        return [leaf.grad for leaf in leaves]

    actual = gradients(sync_exchange_norm, dtype, backend="triton")
    exact, plain = gradients(plain_exchange_norm, torch.float64), gradients(plain_exchange_norm, dtype)
    for gradient, wanted, eager in zip(actual, exact, plain, strict=True):
        assert_close_as_pytorch(gradient, wanted, eager)


@pytest.mark.parametrize(
    "shape, dtype", [((2, 1, 2, 35, 40), torch.float32), ((2, 2, 1, 5, 24), torch.bfloat16)], ids=str
)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, form, shape, dtype):
    check_gradients(*exchange_norm_arguments(shape, kind, form, dtype=dtype))


def test_too_many_channels_are_refused_and_auto_takes_another_backend():
    arguments, keywords = exchange_norm_arguments((1, 8200), "soft", "per channel")
    with pytest.raises(NotImplementedError, match="up to 8192 channels, got 8200"):
        sync_exchange_norm(*arguments, **keywords, backend="triton")
    arguments, keywords = exchange_norm_arguments((1, 8), "soft", "per channel")
    explanation = explain("sync_exchange_norm", *arguments, **keywords)
    assert explanation.chosen != "triton" and explanation.reasons["triton"] == "can run; only when named"
