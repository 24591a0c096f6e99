"""``sync_exchange`` by Triton kernels: against the formula in fp64, forward, backward and in place."""

from __future__ import annotations

import pytest
import torch

from exchange_formula import FORMS, KINDS, OPTIONS, as_dense, cast, exchange_arguments, option_name, plain_exchange
from fourreal_kernels import explain, sync_exchange, sync_exchange_
from fourreal_kernels.ops.sync_exchange import gpu_chunks
from op_layouts import LAYOUTS, STRIDED
from op_numerics import assert_close_as_pytorch, bitwise_equal, poisoned

SHAPES = [
    ((2, 2, 3, 5, 40), torch.float32), ((2, 2, 3, 5, 40), torch.bfloat16), ((2, 2, 3, 5, 40), torch.float16),
    ((1, 1, 1, 1, 1), torch.float32), ((1, 1, 4, 7, 17), torch.bfloat16), ((1, 2, 1, 65, 64), torch.float16),
    ((1, 1, 1, 100, 130), torch.float32), ((2, 6), torch.bfloat16), ((1, 5, 3), torch.float32),
    ((1, 2, 2, 3, 2, 5), torch.float32),
]
GRADIENT_SHAPES = [
    ((2, 1, 2, 35, 40), torch.float32), ((2, 2, 1, 5, 24), torch.bfloat16), ((1, 2, 3, 5, 24), torch.float16),
    ((1, 1, 1, 1, 1), torch.float32), ((2, 32), torch.float32), ((1, 2, 2, 3, 2, 40), torch.float32),
]
OPTION_SETS = [(), OPTIONS, ("bias",), ("gate", "bias"), ("input_scale",)]


def check_forward(arguments, keywords):
    exact_arguments, exact_keywords = cast(arguments, keywords, torch.float64)
    expected = plain_exchange(*exact_arguments, **exact_keywords)
    plain = plain_exchange(*arguments, **keywords)
    results = sync_exchange(*arguments, **keywords, backend="triton")
    for actual, exact, eager in zip(results, expected, plain, strict=True):
        assert_close_as_pytorch(actual, exact, eager)
    if keywords["kind"] == "hard":
        assert bitwise_equal(*results) and results[0].data_ptr() != results[1].data_ptr()


@pytest.mark.parametrize("shape, dtype", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind, form, dtype, shape):
    check_forward(*exchange_arguments(shape, kind, form, dtype=dtype))


@pytest.mark.parametrize("options", OPTION_SETS, ids=option_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_options(kind, form, options):
    check_forward(*exchange_arguments((1, 2, 1, 7, 16), kind, form, options, torch.bfloat16))


@pytest.mark.parametrize("form", FORMS)
def test_hard_with_weight_one_half_is_the_average(form):
    (view, time, *_), _ = exchange_arguments((2, 2, 3, 5, 16), "hard", form, (), torch.bfloat16)
    weight = torch.full((2, 16), 0.5, dtype=torch.bfloat16)
    weight = as_dense(weight, "hard", 16) if form == "dense" else weight
    average = ((view.float() + time.float()) / 2).to(torch.bfloat16)
    for result in sync_exchange(view, time, weight, kind="hard", backend="triton"):
        assert bitwise_equal(result, average)


@pytest.mark.parametrize("form", FORMS)
def test_soft_with_weight_zero_is_the_identity(form):
    (view, time, weight, bias), keywords = exchange_arguments((2, 2, 3, 5, 16), "soft", form, dtype=torch.bfloat16)
    results = sync_exchange(view, time, weight * 0, bias * 0, **keywords, backend="triton")
    assert bitwise_equal(results[0], view) and bitwise_equal(results[1], time)


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("form", FORMS)
def test_strides_do_not_change_the_result(form, layout):
    (view, time, *parameters), keywords = exchange_arguments((1, 2, 3, 3, 2, 8), "soft", form)
    strided = LAYOUTS[layout](view), LAYOUTS["time_first"](time)
    check_forward((*strided, *parameters), keywords)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_strided_parameters(kind, form):
    (view, time, weight, bias), keywords = exchange_arguments((2, 2, 3, 5, 8), kind, form)
    keywords["gate"] = keywords["gate"][:1].expand_as(keywords["gate"])
    transposed = weight.transpose(0, -1).contiguous().transpose(0, -1)
    gaps = torch.stack([bias, bias], dim=1)[:, 0]
    check_forward((view, time, transposed, gaps), keywords)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (3, 1, 0, 2, 4)], ids=["contiguous", "permuted"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_in_place_has_the_bits_of_the_functional_form_and_stays_inside(kind, form, order):
    shape, dtype = (1, 2, 3, 7, 24), torch.bfloat16
    (view, time, *parameters), keywords = exchange_arguments(shape, kind, form, dtype=dtype)
    expected = sync_exchange(view, time, *parameters, **keywords, backend="triton")
    regions = [poisoned(shape, dtype, order) for _ in range(2)]
    for region, x in zip(regions, (view, time), strict=True):
        region.destination.copy_(x)
    sync_exchange_(*(region.destination for region in regions), *parameters, **keywords, backend="triton")
    for region, wanted in zip(regions, expected, strict=True):
        region.assert_written_exactly()
        assert bitwise_equal(region.destination, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_in_its_token(kind):
    (view, time, *parameters), keywords = exchange_arguments((2, 2, 3, 5, 8), kind, "dense")
    clean = sync_exchange(view, time, *parameters, **keywords, backend="triton")
    time[1, 0, 2, 3] = float("nan")
    reached = torch.zeros(view.shape[:-1], dtype=torch.bool)
    reached[1, 0, 2, 3] = True
    results = sync_exchange(view, time, *parameters, **keywords, backend="triton")
    for result, before in zip(results, clean, strict=True):
        assert torch.equal(result[~reached], before[~reached]) and result[reached].isnan().all()


def leaves_of(arguments, keywords):
    """The tensors among the arguments, as leaves that require grad, and a function that calls with them."""
    names = ["view", "time", "weight", "bias", *(name for name in keywords if name != "kind")]
    values = [*arguments, *(keywords[name] for name in names[4:])]
    present = [name for name, x in zip(names, values, strict=True) if x is not None]
    leaves = [x.detach().clone().requires_grad_() for x in values if x is not None]

    def call(function, *tensors, **extra):
        given = dict(zip(present, tensors, strict=True))
        return function(given["view"], given["time"], given["weight"], given.get("bias"), kind=keywords["kind"],
                        input_scale=given.get("input_scale"), gate=given.get("gate"), **extra)

    return leaves, call


def check_gradients(arguments, keywords):
    shape, dtype = arguments[0].shape, arguments[0].dtype
    grads = [torch.randn(shape).to(dtype) for _ in range(2)]

    def gradients(function, to_dtype, **extra):
        leaves, call = leaves_of(*cast(arguments, keywords, to_dtype))
        torch.autograd.backward(call(function, *leaves, **extra), [g.to(to_dtype) for g in grads])
        return [leaf.grad for leaf in leaves]

    actual = gradients(sync_exchange, dtype, backend="triton")
    exact, plain = gradients(plain_exchange, torch.float64), gradients(plain_exchange, dtype)
    for gradient, wanted, eager in zip(actual, exact, plain, strict=True):
        assert_close_as_pytorch(gradient, wanted, eager)


@pytest.mark.parametrize("shape, dtype", GRADIENT_SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, form, dtype, shape):
    check_gradients(*exchange_arguments(shape, kind, form, dtype=dtype))


@pytest.mark.parametrize("options", OPTION_SETS, ids=option_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_options(kind, form, options):
    check_gradients(*exchange_arguments((1, 2, 1, 9, 40), kind, form, options))


@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_one_strided_result_with_expanded_grad_out(kind, form, used):
    arguments, keywords = exchange_arguments((1, 2, 3, 3, 2, 40), kind, form)
    leaves, call = leaves_of(arguments, keywords)
    strided = [LAYOUTS["time_first"](x.detach()).requires_grad_() for x in leaves[:2]]
    call(sync_exchange, *strided, *leaves[2:], backend="triton")[used].sum().backward()
    exact, plain_call = leaves_of(*cast(arguments, keywords, torch.float64))
    plain_call(plain_exchange, *exact)[used].sum().backward()
    plain, plain_call = leaves_of(arguments, keywords)
    plain_call(plain_exchange, *plain)[used].sum().backward()
    for leaf, wanted, eager in zip([*strided, *leaves[2:]], exact, plain, strict=True):
        of_exact, of_eager = (torch.zeros_like(x) if x.grad is None else x.grad for x in (wanted, eager))
        assert_close_as_pytorch(leaf.grad, of_exact, of_eager)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_backward_repeats_bitwise(kind, form):
    leaves, call = leaves_of(*exchange_arguments((1, 1, 2, 65, 16), kind, form))
    outs = call(sync_exchange, *leaves, backend="triton")
    grads = [torch.randn_like(out) for out in outs]
    first = torch.autograd.grad(outs, leaves, grads, retain_graph=True)
    again = torch.autograd.grad(outs, leaves, grads)
    assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("kind, fewest", [("hard", 40), ("soft", 9)])
def test_many_chunks_of_dense_rows(kind, fewest, monkeypatch):
    """Parts of a batch entry, and several whole entries."""
    monkeypatch.setattr(gpu_chunks, "SCRATCH_BYTES", 1)
    monkeypatch.setattr(gpu_chunks, "FEWEST_ROWS", fewest)
    check_forward(*exchange_arguments((3, 1, 1, 17, 8), kind, "dense"))
    check_gradients(*exchange_arguments((3, 1, 1, 11, 8), kind, "dense", ("bias",)))


@pytest.mark.parametrize("first, samples, rows, most", [(0, 3, 17, 7), (2, 5, 3, 7), (0, 1, 256, 256), (0, 2, 1, 1)])
def test_chunks_cover_every_row_once(first, samples, rows, most, monkeypatch):
    monkeypatch.setattr(gpu_chunks, "FEWEST_ROWS", 1)
    monkeypatch.setattr(gpu_chunks, "SCRATCH_BYTES", 10 * most)
    parts = gpu_chunks.chunks(first, samples, rows, 10)
    seen = [(sample, row) for part in parts for sample in range(part.first_sample, part.first_sample + part.samples)
            for row in range(part.first_row, part.first_row + part.rows)]
    assert sorted(seen) == [(sample, row) for sample in range(first, first + samples) for row in range(rows)]
    assert all(part.length <= most for part in parts)


def test_float64_is_refused_and_auto_takes_another_backend():
    arguments, keywords = exchange_arguments((2, 2, 1, 3, 4), "soft", "dense", dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="arithmetic is in float32, the call is in float64"):
        sync_exchange(*arguments, **keywords, backend="triton")
    explanation = explain("sync_exchange", *[x.float() for x in arguments], kind="soft")
    assert explanation.chosen != "triton" and explanation.reasons["triton"] == "can run; only when named"
