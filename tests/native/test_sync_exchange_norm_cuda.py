"""``sync_exchange_norm`` by CUDA kernels, run on the host and on a GPU: against the formula in fp64."""

from __future__ import annotations

import pytest
import torch

from cuda_on_host import TARGETS, backend_target
from exchange_cases import CUDA_SOURCES, LAYOUTS, WRITABLE_LAYOUTS
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
from fourreal_kernels import explain, native, sync_exchange, sync_exchange_norm, sync_exchange_norm_
from fourreal_kernels.ops.sync_exchange import gpu_chunks
from fourreal_kernels.ops.sync_exchange_norm import cuda_backward, formulas
from one_thread import single_threaded  # noqa: F401
from op_numerics import (
    LOW_PRECISION,
    assert_all_close_as_pytorch,
    assert_close_as_pytorch,
    bitwise_equal,
    dtype_name,
)

OP = "sync_exchange_norm"
# Of threads a row: one, several rows a warp, a warp, several warps; channels that packs divide and that they do not.
SHAPES = [(1, 1, 1, 1, 8), (2, 1, 4, 7, 17), (1, 2, 1, 65, 64), (2, 3, 2, 1, 40), (1, 1, 1, 100, 136), (3, 16),
          (2, 5, 260), (1, 1, 2, 3, 296), (2, 2, 3, 2, 2, 24)]
GRADIENT_SHAPES = [(1, 1, 1, 1, 8), (2, 1, 4, 7, 24), (1, 2, 1, 65, 64), (2, 3, 2, 1, 40), (3, 16), (1, 1, 2, 3, 296),
                   (2, 2, 3, 2, 2, 24)]
PLACES = (*((name,) * 4 for name in WRITABLE_LAYOUTS), ("padded", "permuted", "contiguous", "packed"))
OPTION_SETS = [(), NORM_OPTIONS, ("branch_gate",), ("bias", "gate"), ("input_scale", "branch_gate")]


@pytest.fixture(params=TARGETS, autouse=True)
def target(request, monkeypatch):
    yield from backend_target(request.param, monkeypatch, CUDA_SOURCES)


def check_forward(arguments, keywords):
    exact_arguments, exact_keywords = cast(arguments, keywords, torch.float64)
    exact, plain = plain_exchange_norm(*exact_arguments, **exact_keywords), plain_exchange_norm(*arguments, **keywords)
    results = sync_exchange_norm(*arguments, **keywords, backend="cuda")
    for actual, wanted, eager in zip(results, exact, plain, strict=True):
        assert_close_as_pytorch(actual, wanted, eager)
    return results


@pytest.mark.parametrize("options", list(norm_option_sets()), ids=option_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_options(kind, form, options):
    check_forward(*exchange_norm_arguments((3, 2, 3, 7, 16), kind, form, options, torch.bfloat16))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind, form, dtype, shape):
    check_forward(*exchange_norm_arguments(shape, kind, form, dtype=dtype))


def wide_arguments(channels, dtype):
    """Hard, with equal weights, whose formula needs no dense matrix."""
    arguments, keywords = exchange_norm_arguments((1, 1, 1, 3, channels), "hard", "per channel", (), dtype)
    weight = torch.full((2, channels), 0.5, dtype=dtype)
    return (*arguments[:4], weight, None), keywords


@pytest.mark.parametrize("channels", [3072, 5120, 5111])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
def test_wide_rows(dtype, channels):
    arguments, keywords = wide_arguments(channels, dtype)
    results = sync_exchange_norm(*arguments, **keywords, backend="cuda")
    view, time, view_branch, time_branch = (x.double() for x in arguments[:4])
    exchanged = (view + view_branch + time + time_branch) / 2
    scales, shifts = ([x.double() for x in keywords[name].chunk(2, dim=1)] for name in ("norm_scale", "norm_shift"))
    normalised = torch.nn.functional.layer_norm(exchanged, (channels,), eps=1e-6)
    exact = exchanged, exchanged, *(normalised * (1 + a) + b for a, b in zip(scales, shifts, strict=True))
    for actual, wanted in zip(results, exact, strict=True):
        units = 8 * torch.finfo(torch.float32).eps * wanted.abs().max()
        assert (actual.double() - wanted).abs().max() <= units + torch.finfo(dtype).eps / 2 * wanted.abs().max()


def test_more_channels_are_refused():
    arguments, keywords = wide_arguments(5128, torch.bfloat16)
    with pytest.raises(NotImplementedError, match="up to 5120 channels, got 5128"):
        sync_exchange_norm(*arguments, **keywords, backend="cuda")


def test_large_mean_does_not_cost_the_variance():
    """Two passes: the mean is taken away before squares are added."""
    (view, time, *rest), keywords = exchange_norm_arguments((1, 1, 2, 3, 64), "soft", "per channel", ())
    arguments = (view + 1000, time - 1000, *rest[:2], torch.zeros_like(rest[2]), rest[3])
    check_forward(arguments, keywords)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_constant_rows(kind, form):
    """Their variance is 0: the norm is the shift."""
    arguments, keywords = exchange_norm_arguments((1, 2, 2, 3, 16), kind, form, ())
    zeros = [torch.zeros_like(x) for x in arguments[:4]]
    results = sync_exchange_norm(*zeros, *arguments[4:], **keywords, backend="cuda")
    for norm, shift in zip(results[2:], keywords["norm_shift"].chunk(2, dim=1), strict=True):
        assert torch.equal(norm, shift.expand_as(norm))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_branch_the_streams_are_those_of_the_exchange(kind):
    """Bit for bit, per channel."""
    (view, time, _, _, weight, bias), keywords = exchange_norm_arguments((2, 2, 3, 5, 40), kind, "per channel")
    of_exchange = {name: keywords[name] for name in ("kind", "input_scale", "gate")}
    zeros = torch.zeros_like(view)
    actual = sync_exchange_norm(view, time, zeros, zeros, weight, bias, **keywords, backend="cuda")[:2]
    wanted = sync_exchange(view, time, weight, bias, **of_exchange, backend="cuda")
    assert all(bitwise_equal(x, y) for x, y in zip(actual, wanted, strict=True))


def placed(streams, layouts):
    """The streams in NaN-filled memory between guards, by layouts of ``exchange_cases``."""
    regions = [LAYOUTS[name](tuple(x.shape), x.dtype, str(x.device)) for x, name in zip(streams, layouts, strict=True)]
    for region, x in zip(regions, streams, strict=True):
        region.tensor.copy_(x)
    return regions


@pytest.mark.parametrize("layouts", PLACES, ids="-".join)
@pytest.mark.parametrize("channels", [15, 40, 264])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_strides_and_guards(kind, form, channels, layouts):
    """Any strides, which per channel do not change the bits. In place: the same bits, nothing else written."""
    for dtype in LOW_PRECISION:
        arguments, keywords = exchange_norm_arguments((2, 2, 1, 5, channels), kind, form, dtype=dtype)
        streams, parameters = arguments[:4], arguments[4:]
        regions = placed(streams, layouts)
        strided = [region.tensor for region in regions]
        expected = check_forward((*strided, *parameters), keywords)
        if form == "per channel":
            dense = sync_exchange_norm(*arguments, **keywords, backend="cuda")
            assert all(bitwise_equal(x, y) for x, y in zip(expected, dense, strict=True))
        assert all(bitwise_equal(x, y) for x, y in zip(strided, streams, strict=True)), "an input changed"
        assert sync_exchange_norm_(*strided, *parameters, **keywords, backend="cuda") is None
        assert all(bitwise_equal(x, y) for x, y in zip(strided, expected, strict=True))
        assert all(region.outside_is_untouched() for region in regions), "memory outside a stream changed"


def test_expanded_inputs():
    arguments, keywords = exchange_norm_arguments((2, 2, 3, 5, 8), "soft", "dense")
    repeated = [x[:, :1, :, :1].expand(2, 2, 3, 5, 8) for x in arguments[:4]]
    check_forward((*repeated, *arguments[4:]), keywords)


@pytest.mark.parametrize("kind, fewest", [("hard", 40), ("soft", 9)])
def test_many_chunks_of_dense_rows(kind, fewest, monkeypatch):
    """Parts of a batch entry, and several whole entries; aligned rows and others."""
    monkeypatch.setattr(gpu_chunks, "SCRATCH_BYTES", 1)
    monkeypatch.setattr(gpu_chunks, "FEWEST_ROWS", fewest)
    for channels in (8, 11):
        check_forward(*exchange_norm_arguments((3, 1, 2, 9, channels), kind, "dense"))


@pytest.mark.parametrize("form", FORMS)
def test_nan_stays_in_its_token(form):
    arguments, keywords = exchange_norm_arguments((2, 2, 3, 5, 8), "hard", form)
    clean = sync_exchange_norm(*arguments, **keywords, backend="cuda")
    arguments[2][1, 0, 2, 3] = float("nan")
    reached = torch.zeros(2, 2, 3, 5, dtype=torch.bool)
    reached[1, 0, 2, 3] = True
    for result, before in zip(sync_exchange_norm(*arguments, **keywords, backend="cuda"), clean, strict=True):
        assert torch.equal(result[~reached], before[~reached]) and result[reached].isnan().all()


def gradients(function, arguments, keywords, grads, dtype, **extra):
    """Of every tensor argument, of ``function`` in ``dtype``."""
    tensors, named = cast(arguments, keywords, dtype)
    optional = ("input_scale", "gate", "branch_gate", "norm_scale", "norm_shift")
    leaves = [x for x in (*tensors, *(named[name] for name in optional)) if x is not None]
    leaves = [x.requires_grad_() for x in leaves]
    return torch.autograd.grad(function(*tensors, **named, **extra), leaves, [g.to(dtype) for g in grads])


def check_gradients(shape, kind, form, dtype, options=NORM_OPTIONS):
    arguments, keywords = exchange_norm_arguments(shape, kind, form, options, dtype)
    grads = [torch.randn(shape).to(dtype) for _ in range(4)]
    exact = gradients(plain_exchange_norm, arguments, keywords, grads, torch.float64)
    plain = gradients(plain_exchange_norm, arguments, keywords, grads, dtype)
    results = gradients(sync_exchange_norm, arguments, keywords, grads, dtype, backend="cuda")
    assert_all_close_as_pytorch(results, exact, plain)
    return results


@pytest.fixture
def only_the_kernel(monkeypatch):
    """The formulas must not stand in for it."""
    monkeypatch.setattr(formulas, "backward", None)


@pytest.mark.parametrize("options", OPTION_SETS, ids=option_name)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_options(only_the_kernel, kind, options):
    check_gradients((2, 2, 1, 7, 16), kind, "per channel", torch.float32, options)


@pytest.mark.parametrize("shape", GRADIENT_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_shapes(only_the_kernel, kind, dtype, shape):
    check_gradients(shape, kind, "per channel", dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_from_many_blocks(only_the_kernel, kind, monkeypatch):
    """Every block of rows leaves its sums; the same call gives the same bits."""
    monkeypatch.setattr(cuda_backward, "_resident_blocks", lambda view, kind: 14)
    for _ in range(2):
        torch.manual_seed(1)
        first = check_gradients((2, 1, 2, 130, 40), kind, "per channel", torch.float32)
        torch.manual_seed(1)
        again = check_gradients((2, 1, 2, 130, 40), kind, "per channel", torch.float32)
        assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("form, channels", [("dense", 16), ("per channel", 15)])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_the_formulas(kind, form, channels, monkeypatch):
    """Of dense weights, and of rows that are not at 16 bytes."""
    monkeypatch.setattr(native.cuda_library(), "sync_exchange_norm_backward", None)
    check_gradients((2, 2, 1, 7, channels), kind, form, torch.float32)


@pytest.mark.parametrize("layout", ["permuted", "packed", "padded", "sliced"])
@pytest.mark.parametrize("kind", KINDS)
def test_strided_gradients(kind, layout):
    arguments, keywords = exchange_norm_arguments((2, 2, 3, 5, 24), kind, "per channel")
    tensors = (*arguments[:4], *(torch.randn_like(arguments[0]) for _ in range(4)))
    strided = [region.tensor for region in placed(tensors, (layout,) * 8)]

    def gradients_of_streams(function, dtype, **extra):
        streams, grads, parameters = ([x.to(dtype) for x in y] for y in (strided[:4], strided[4:], arguments[4:]))
        leaves = [x.detach().requires_grad_() for x in streams]
        _, named = cast((), keywords, dtype)
        return torch.autograd.grad(function(*leaves, *parameters, **named, **extra), leaves, grads)

    exact, plain = (gradients_of_streams(plain_exchange_norm, dtype) for dtype in (torch.float64, torch.float32))
    results = gradients_of_streams(sync_exchange_norm, torch.float32, backend="cuda")
    assert_all_close_as_pytorch(results, exact, plain)


@pytest.mark.parametrize("used", range(4))
def test_expanded_gradient_of_one_result(used):
    arguments, keywords = exchange_norm_arguments((2, 2, 3, 5, 8), "soft", "per channel")
    leaves = [x.detach().requires_grad_() for x in arguments]
    copies = [x.detach().double().requires_grad_() for x in arguments]
    _, exact = cast((), keywords, torch.float64)
    wanted = torch.autograd.grad(plain_exchange_norm(*copies, **exact)[used].sum(), copies, materialize_grads=True)
    actual = torch.autograd.grad(sync_exchange_norm(*leaves, **keywords, backend="cuda")[used].sum(), leaves)
    largest = max(y.abs().max().item() for y in wanted)
    for x, y in zip(actual, wanted, strict=True):
        assert (x.double() - y).abs().max() <= 1e-5 * largest


def test_opcheck():
    arguments, keywords = exchange_norm_arguments((1, 2, 2, 3, 8), "soft", "per channel")
    names = ("input_scale", "gate", "branch_gate", "norm_scale", "norm_shift")
    leaves = [x.requires_grad_() for x in (*arguments, *(keywords[name] for name in names))]
    torch.library.opcheck(torch.ops.fourreal_kernels.sync_exchange_norm, (*leaves, "soft", 1e-6, "cuda", True))


def test_never_chosen_unless_named():
    arguments, keywords = exchange_norm_arguments((1, 2, 2, 3, 8), "soft", "dense")
    explanation = explain(OP, *arguments, **keywords)
    assert explanation.chosen != "cuda" and explanation.reasons["cuda"] == "can run; only when named"
