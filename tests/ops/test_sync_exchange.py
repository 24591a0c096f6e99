"""``sync_exchange``: against the formula in fp64, special weights, strides and gradients, for every backend."""

from __future__ import annotations

import pytest
import torch

from exchange_formula import FORMS, KINDS, as_dense, cast, exchange_arguments, option_name, option_sets, plain_exchange
from fourreal_kernels import sync_exchange
from op_backends import backends, can_run
from op_layouts import LAYOUTS, STRIDED
from op_numerics import DTYPES, LOW_PRECISION, assert_close_as_pytorch, bitwise_equal, dtype_name

BACKENDS = backends("sync_exchange")
SHAPES = [(3, 2, 3, 5, 12), (1, 1, 1, 1, 1), (3, 1, 4, 7, 17), (2, 4, 1, 65, 8), (4, 6), (2, 5, 3), (2, 2, 2, 3, 2, 5)]


def check_forward(backend, arguments, keywords):
    if not can_run("sync_exchange", backend, *arguments, **keywords):
        return
    dtype = arguments[0].dtype
    exact_arguments, exact_keywords = cast(arguments, keywords, torch.float64)
    expected = plain_exchange(*exact_arguments, **exact_keywords)
    plain = plain_exchange(*arguments, **keywords)
    results = sync_exchange(*arguments, **keywords, backend=backend)
    assert isinstance(results, tuple) and len(results) == 2
    for actual, exact, eager in zip(results, expected, plain, strict=True):
        assert actual.dtype == dtype
        assert_close_as_pytorch(actual, exact, eager)
    if keywords["kind"] == "hard":
        assert bitwise_equal(*results) and results[0].data_ptr() != results[1].data_ptr()


@pytest.mark.parametrize("options", list(option_sets()), ids=option_name)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_formula(backend, kind, form, dtype, options):
    check_forward(backend, *exchange_arguments((3, 2, 3, 7, 16), kind, form, options, dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_shapes(backend, kind, form, shape):
    check_forward(backend, *exchange_arguments(shape, kind, form))


@pytest.mark.parametrize("tokens", [1, 7, 63, 65, 100, 240, 390])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_token_counts(backend, kind, form, tokens):
    check_forward(backend, *exchange_arguments((2, 2, 1, tokens, 24), kind, form))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_hard_with_weight_one_half_is_the_average(backend, form, dtype):
    (view, time, *_), _ = exchange_arguments((2, 2, 3, 5, 16), "hard", form, (), dtype)
    weight = torch.full((2, 16), 0.5, dtype=dtype)
    weight = as_dense(weight, "hard", 16) if form == "dense" else weight
    if not can_run("sync_exchange", backend, view, time, weight, kind="hard"):
        return
    accumulation = torch.float64 if dtype == torch.float64 else torch.float32
    average = ((view.to(accumulation) + time.to(accumulation)) / 2).to(dtype)
    for result in sync_exchange(view, time, weight, kind="hard", backend=backend):
        assert bitwise_equal(result, average)


@pytest.mark.parametrize("options", list(option_sets()), ids=option_name)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_soft_with_weight_zero_is_the_identity(backend, form, dtype, options):
    """Bit for bit, with a zero bias and any scale and gate."""
    (view, time, weight, bias), keywords = exchange_arguments((2, 2, 3, 5, 16), "soft", form, options, dtype)
    zeros = (torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias))
    if not can_run("sync_exchange", backend, view, time, *zeros, **keywords):
        return
    new_view, new_time = sync_exchange(view, time, *zeros, **keywords, backend=backend)
    assert bitwise_equal(new_view, view) and bitwise_equal(new_time, time)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_are_concatenated_view_first(backend, kind, form):
    """A weight that reads the view stream only ignores the time stream, and the other way round."""
    (view, time, weight, _), _ = exchange_arguments((1, 2, 2, 3, 4), kind, form, ())
    split = (torch.zeros_like(weight), torch.zeros_like(weight))
    for stream, part in enumerate(split):
        index = (..., slice(4 * stream, 4 * stream + 4)) if form == "dense" else (..., stream, slice(None))
        part[index] = weight[index]
    for stream, part in enumerate(split):
        if not can_run("sync_exchange", backend, view, time, part, kind=kind):
            continue
        streams = [view, time]
        before = sync_exchange(*streams, part, kind=kind, backend=backend)[stream]
        streams[1 - stream] = torch.randn_like(view)
        assert bitwise_equal(sync_exchange(*streams, part, kind=kind, backend=backend)[stream], before)


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_change_the_result(backend, kind, form, layout):
    (view, time, *parameters), keywords = exchange_arguments((2, 2, 3, 5, 2, 8), kind, form)
    strided = LAYOUTS[layout](view), LAYOUTS["time_first"](time)
    check_forward(backend, (*strided, *parameters), keywords)
    assert bitwise_equal(strided[0], view) and bitwise_equal(strided[1], time)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_parameters(backend, kind, form):
    """Transposed weights, expanded gates and biases with gaps are read where they lie."""
    (view, time, weight, bias), keywords = exchange_arguments((2, 2, 3, 5, 8), kind, form)
    keywords["gate"] = keywords["gate"][:1].expand_as(keywords["gate"])
    transposed = weight.transpose(0, -1).contiguous().transpose(0, -1)
    gaps = torch.stack([bias, bias], dim=1)[:, 0]
    scale = torch.cat([keywords["input_scale"]] * 2, dim=1)[:, : keywords["input_scale"].shape[1]]
    check_forward(backend, (view, time, transposed, gaps), {**keywords, "input_scale": scale})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_token(backend, kind):
    (view, time, *parameters), keywords = exchange_arguments((2, 2, 3, 5, 8), kind, "dense")
    if not can_run("sync_exchange", backend, view, time, *parameters, **keywords):
        return
    clean = sync_exchange(view, time, *parameters, **keywords, backend=backend)
    time[1, 0, 2, 3] = float("nan")
    reached = torch.zeros(view.shape[:-1], dtype=torch.bool)
    reached[1, 0, 2, 3] = True
    for result, before in zip(sync_exchange(view, time, *parameters, **keywords, backend=backend), clean, strict=True):
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


def has_backward(backend, arguments, keywords):
    """The reference has every gradient; another backend may refuse calls that need one."""
    wants = [None if x is None else x.detach().requires_grad_() for x in arguments]
    return can_run("sync_exchange", backend, *wants, **keywords)


@pytest.mark.parametrize("options", list(option_sets()), ids=option_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend, kind, form, options):
    arguments, keywords = exchange_arguments((2, 1, 1, 2, 3), kind, form, options, torch.float64)
    if not has_backward(backend, arguments, keywords):
        return
    leaves, call = leaves_of(arguments, keywords)
    torch.autograd.gradcheck(lambda *x: call(sync_exchange, *x, backend=backend), leaves)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_in_low_precision(backend, kind, form, dtype):
    arguments, keywords = exchange_arguments((2, 2, 3, 5, 8), kind, form, dtype=dtype)
    if not has_backward(backend, arguments, keywords):
        return
    grads = [torch.randn(2, 2, 3, 5, 8).to(dtype) for _ in range(2)]

    def gradients(function, to_dtype, **extra):
        leaves, call = leaves_of(*cast(arguments, keywords, to_dtype))
        torch.autograd.backward(call(function, *leaves, **extra), [g.to(to_dtype) for g in grads])
        return [leaf.grad for leaf in leaves]

    actual = gradients(sync_exchange, dtype, backend=backend)
    exact, plain = gradients(plain_exchange, torch.float64), gradients(plain_exchange, dtype)
    for gradient, wanted, eager in zip(actual, exact, plain, strict=True):
        assert_close_as_pytorch(gradient, wanted, eager)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 4), (3, 1, 4, 1, 3)], ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_small_shapes(backend, kind, form, shape):
    arguments, keywords = exchange_arguments(shape, kind, form, dtype=torch.float64)
    if not has_backward(backend, arguments, keywords):
        return
    leaves, call = leaves_of(arguments, keywords)
    actual = torch.autograd.grad(sum(x.square().sum() for x in call(sync_exchange, *leaves, backend=backend)), leaves)
    expected = torch.autograd.grad(sum(x.square().sum() for x in call(plain_exchange, *leaves)), leaves)
    for gradient, wanted in zip(actual, expected, strict=True):
        assert_close_as_pytorch(gradient, wanted, wanted)


@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_one_result_with_expanded_grad_out(backend, kind, used):
    arguments, keywords = exchange_arguments((2, 2, 3, 5, 8), kind, "dense", dtype=torch.float64)
    if not has_backward(backend, arguments, keywords):
        return
    leaves, call = leaves_of(arguments, keywords)
    call(sync_exchange, *leaves, backend=backend)[used].sum().backward()
    copies, plain_call = leaves_of(arguments, keywords)
    plain_call(plain_exchange, *copies)[used].sum().backward()
    for leaf, copy in zip(leaves, copies, strict=True):
        wanted = torch.zeros_like(copy) if copy.grad is None else copy.grad
        assert_close_as_pytorch(leaf.grad, wanted, wanted)


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_of_inputs_and_grad_out_do_not_change_gradients(backend, kind, layout):
    arguments, keywords = exchange_arguments((2, 2, 3, 5, 2, 4), kind, "dense", dtype=torch.float64)
    if not has_backward(backend, arguments, keywords):
        return
    grads = [torch.randn_like(arguments[0]) for _ in range(2)]
    leaves, call = leaves_of(arguments, keywords)
    torch.autograd.backward(call(sync_exchange, *leaves, backend=backend), grads)
    strided = [LAYOUTS[layout](x.detach()).requires_grad_() for x in leaves[:2]]
    others = [x.detach().clone().requires_grad_() for x in leaves[2:]]
    torch.autograd.backward(
        call(sync_exchange, *strided, *others, backend=backend), [LAYOUTS[layout](grad) for grad in grads]
    )
    for leaf, copy in zip(leaves, [*strided, *others], strict=True):
        assert_close_as_pytorch(copy.grad, leaf.grad, leaf.grad)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_repeats_bitwise(backend, kind, form):
    arguments, keywords = exchange_arguments((3, 2, 3, 65, 16), kind, form)
    if not has_backward(backend, arguments, keywords):
        return
    leaves, call = leaves_of(arguments, keywords)
    outs = call(sync_exchange, *leaves, backend=backend)
    grads = [torch.randn_like(out) for out in outs]
    first = torch.autograd.grad(outs, leaves, grads, retain_graph=True)
    again = torch.autograd.grad(outs, leaves, grads)
    assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


def test_meta_tensors_give_shapes_without_memory():
    view = torch.empty(4, 8, 16, 1560, 3072, dtype=torch.bfloat16, device="meta")
    weight = torch.empty(6144, 6144, dtype=torch.bfloat16, device="meta")
    assert all(x.shape == view.shape for x in sync_exchange(view, view, weight, kind="soft"))
