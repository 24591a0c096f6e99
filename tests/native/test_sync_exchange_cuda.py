"""``sync_exchange`` by CUDA kernels, run on the host and on a GPU: against the formula in fp64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_on_host import TARGETS, backend_target
from exchange_cases import CUDA_SOURCES, LAYOUTS, WRITABLE_LAYOUTS
from exchange_formula import (
    FORMS,
    KINDS,
    OPTIONS,
    as_dense,
    cast,
    exchange_arguments,
    option_name,
    option_sets,
    plain_exchange,
)
from fourreal_kernels import explain, sync_exchange, sync_exchange_
from fourreal_kernels.ops.sync_exchange import cuda, cuda_channel, cuda_dense, gpu_chunks
from one_thread import single_threaded  # noqa: F401
from op_numerics import (
    LOW_PRECISION,
    assert_all_close_as_pytorch,
    assert_close_as_pytorch,
    bitwise_equal,
    dtype_name,
)

SHAPES = [(1, 1, 1, 1, 1), (2, 1, 4, 7, 17), (1, 2, 1, 65, 64), (2, 3, 2, 1, 40), (1, 1, 1, 100, 128), (3, 8),
          (2, 5, 3), (2, 2, 3, 2, 2, 5)]
# Several tiles of channels, with and without 16-byte accesses; rows for more blocks than run at once.
WIDE = [((2, 1, 2, 3, 1030), torch.float16), ((2, 1, 1, 3, 2400), torch.bfloat16), ((1, 1, 1, 3, 1040), torch.float32)]
LONG = [(1, 3, 5, 4000, 1), (2, 1, 3, 700, 8)]
MIXES = [*((name,) * 2 for name in (*WRITABLE_LAYOUTS, "padded")), ("expanded", "contiguous"), ("permuted", "sliced")]


@pytest.fixture(params=TARGETS, autouse=True)
def target(request, monkeypatch):
    yield from backend_target(request.param, monkeypatch, CUDA_SOURCES)


def check_forward(arguments, keywords):
    exact_arguments, exact_keywords = cast(arguments, keywords, torch.float64)
    exact, plain = plain_exchange(*exact_arguments, **exact_keywords), plain_exchange(*arguments, **keywords)
    results = sync_exchange(*arguments, **keywords, backend="cuda")
    for actual, wanted, eager in zip(results, exact, plain, strict=True):
        assert_close_as_pytorch(actual, wanted, eager)
    if keywords["kind"] == "hard":
        assert bitwise_equal(*results) and results[0].data_ptr() != results[1].data_ptr()
    return results


@pytest.mark.parametrize("options", list(option_sets()), ids=option_name)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_options(kind, form, dtype, options):
    check_forward(*exchange_arguments((3, 2, 3, 7, 16), kind, form, options, dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind, form, dtype, shape):
    check_forward(*exchange_arguments(shape, kind, form, dtype=dtype))


def channel_formula(arguments, keywords):
    """``plain_exchange`` without a dense matrix, which is large for many channels."""
    view, time, weight, bias = arguments
    per_sample = (view.shape[0], 1, 1, 1, -1)
    view_scale, time_scale = (x.reshape(per_sample) for x in keywords["input_scale"].chunk(2, dim=1))
    taken = [view * view_scale * w[0] + time * time_scale * w[1] for w in weight.reshape(-1, 2, view.shape[-1])]
    taken = (torch.cat(taken, dim=-1) + bias) * keywords["gate"].view(per_sample)
    if keywords["kind"] == "hard":
        return taken, taken
    return tuple(x + d for x, d in zip((view, time), taken.chunk(2, dim=-1), strict=True))


@pytest.mark.parametrize(("shape", "dtype"), [*WIDE, *((shape, torch.float32) for shape in LONG)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_several_tiles_and_blocks(kind, shape, dtype):
    arguments, keywords = exchange_arguments(shape, kind, "per channel", OPTIONS, dtype)
    exact, plain = (channel_formula(*cast(arguments, keywords, to)) for to in (torch.float64, dtype))
    for actual, wanted, eager in zip(
        sync_exchange(*arguments, **keywords, backend="cuda"), exact, plain, strict=True
    ):
        assert_close_as_pytorch(actual, wanted, eager)


def placed(streams, layouts):
    """The streams in NaN-filled memory between guards, by layouts of ``exchange_cases``."""
    regions = [LAYOUTS[name](tuple(x.shape), x.dtype, str(x.device)) for x, name in zip(streams, layouts, strict=True)]
    for region, x in zip(regions, streams, strict=True):
        index = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in region.tensor.stride())
        region.tensor[index].copy_(x[index])
    return regions


@pytest.mark.parametrize("mix", MIXES, ids="-".join)
@pytest.mark.parametrize("channels", [7, 40])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_strides_and_guards(kind, form, channels, mix):
    """Inputs of any strides; per channel they do not change the bits. In place: the same bits, nothing else written."""
    for dtype in LOW_PRECISION:
        (view, time, *parameters), keywords = exchange_arguments((3, 2, 3, 5, channels), kind, form, dtype=dtype)
        regions = placed((view, time), mix)
        streams = [region.tensor for region in regions]
        copies = [x.clone(memory_format=torch.contiguous_format) for x in streams]
        expected = check_forward((*streams, *parameters), keywords)
        assert all(bitwise_equal(x, y) for x, y in zip(streams, copies, strict=True)), "an input changed"
        if form == "per channel":
            dense = sync_exchange(*copies, *parameters, **keywords, backend="cuda")
            assert all(bitwise_equal(x, y) for x, y in zip(expected, dense, strict=True))
        if "expanded" in mix:
            continue
        assert sync_exchange_(*streams, *parameters, **keywords, backend="cuda") is None
        assert all(bitwise_equal(x, y) for x, y in zip(streams, expected, strict=True))
        assert all(region.outside_is_untouched() for region in regions), "memory outside a stream changed"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_strided_parameters(kind, form):
    """Transposed, expanded and unaligned parameters give the bits of contiguous ones."""
    (view, time, weight, bias), keywords = exchange_arguments((2, 2, 3, 5, 8), kind, form, dtype=torch.bfloat16)
    keywords["gate"] = keywords["gate"][:1].expand_as(keywords["gate"])
    transposed = weight.transpose(0, -1).contiguous().transpose(0, -1)
    unaligned = torch.cat([bias[:1], bias])[1:]
    expected = sync_exchange(view, time, weight, bias, **keywords, backend="cuda")
    results = sync_exchange(view, time, transposed, unaligned, **keywords, backend="cuda")
    assert all(bitwise_equal(x, y) for x, y in zip(results, expected, strict=True))


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
def test_special_weights(form, dtype):
    """Hard weights of 1/2 average, soft weights of 0 leave the streams as they are: bit for bit."""
    (view, time, *_), _ = exchange_arguments((2, 2, 3, 5, 16), "hard", form, (), dtype)
    half, zero = torch.full((2, 16), 0.5, dtype=dtype), torch.zeros(2, 2, 16, dtype=dtype)
    if form == "dense":
        half, zero = as_dense(half, "hard", 16), as_dense(zero, "soft", 16)
    if form == "per channel":
        average = ((view.float() + time.float()) / 2).to(dtype)
        assert all(bitwise_equal(x, average) for x in sync_exchange(view, time, half, kind="hard", backend="cuda"))
    results = sync_exchange(view, time, zero, kind="soft", backend="cuda")
    assert bitwise_equal(results[0], view) and bitwise_equal(results[1], time)


@pytest.mark.parametrize("kind, fewest", [("hard", 40), ("soft", 9)])
@pytest.mark.parametrize("options", [(), OPTIONS], ids=option_name)
def test_many_chunks_of_dense_rows(kind, fewest, options, monkeypatch):
    """Parts of a batch entry, and several whole entries; rows read where they lie, and staged ones."""
    monkeypatch.setattr(gpu_chunks, "SCRATCH_BYTES", 1)
    monkeypatch.setattr(gpu_chunks, "FEWEST_ROWS", fewest)
    arguments, keywords = exchange_arguments((3, 1, 2, 9, 8), kind, "dense", options, torch.bfloat16)
    check_forward(arguments, keywords)
    every_second = [torch.stack([x, torch.full_like(x, float("nan"))], dim=1)[:, 0] for x in arguments[:2]]
    check_forward((*every_second, *arguments[2:]), keywords)
    check_gradients((3, 1, 2, 9, 8), kind, "dense", torch.float32, options)


def test_rows_that_blas_takes():
    x = torch.zeros(2, 3, 4, 5, 8)
    even = (x, x[..., :7], x[:1, 1:2, 1:2, :, 2:], x[:, :1, :1, :1], torch.zeros(1, 1, 1, 1, 8))
    assert all(cuda_dense._rows_are_even(y) for y in even)
    overlapping = x.as_strided((1, 1, 1, 3, 8), (0, 0, 0, 4, 1))
    uneven = (x[:, :2], x[:, :, :, :4], x.permute(0, 2, 1, 3, 4), x[:, :1].expand(2, 3, 4, 5, 8), overlapping)
    assert not any(cuda_dense._rows_are_even(y) for y in uneven)


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_tensors_with_more_rows_than_a_kernel_numbers(form, monkeypatch):
    monkeypatch.setattr(gpu_chunks, "_MOST_ROWS", 7)
    check_forward(*exchange_arguments((2, 2, 3, 5, 8), "soft", form, ("bias", "gate")))
    check_gradients((2, 2, 3, 5, 8), "soft", form, torch.float32)


def gradients(function, arguments, keywords, grads, dtype, **extra):
    """Of every tensor argument, of ``function`` in ``dtype``."""
    tensors, named = cast(arguments, keywords, dtype)
    leaves = [x for x in (*tensors, named["input_scale"], named["gate"]) if x is not None]
    leaves = [x.requires_grad_() for x in leaves]
    return torch.autograd.grad(function(*tensors, **named, **extra), leaves, [g.to(dtype) for g in grads])


def gradients_of_all(shape, kind, form, dtype, options=OPTIONS):
    """By the kernels, exact, and by plain PyTorch."""
    arguments, keywords = exchange_arguments(shape, kind, form, options, dtype)
    grads = [torch.randn(shape).to(dtype) for _ in range(2)]
    exact = gradients(plain_exchange, arguments, keywords, grads, torch.float64)
    plain = gradients(plain_exchange, arguments, keywords, grads, dtype)
    return gradients(sync_exchange, arguments, keywords, grads, dtype, backend="cuda"), exact, plain


def check_gradients(*of):
    for actual, wanted, eager in zip(*gradients_of_all(*of), strict=True):
        assert_close_as_pytorch(actual, wanted, eager)


@pytest.mark.parametrize("options", [*itertools.islice(option_sets(), 7), OPTIONS], ids=option_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_options(kind, form, options):
    check_gradients((2, 2, 1, 7, 16), kind, form, torch.float32, options)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_shapes(kind, form, dtype, shape):
    check_gradients(shape, kind, form, dtype)


@pytest.mark.parametrize("channels", [1, 8, 300, 1030])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_from_many_blocks(kind, channels, monkeypatch):
    """Every block of rows leaves its sums; the same call gives the same bits."""
    monkeypatch.setattr(cuda_channel, "_multiprocessors", lambda x: 7)
    shape = (2, 1, 2, 650 if channels < 100 else 35, channels)
    arguments, keywords = exchange_arguments(shape, kind, "per channel")
    grads = [torch.randn(shape) for _ in range(2)]
    if channels <= 300:
        assert_all_close_as_pytorch(*gradients_of_all(shape, kind, "per channel", torch.float32))
    first, again = (
        gradients(sync_exchange, arguments, keywords, grads, torch.float32, backend="cuda") for _ in range(2)
    )
    assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("layout", ["sliced", "permuted", "packed", "padded", "expanded"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_strided_gradients(kind, form, layout):
    arguments, keywords = exchange_arguments((2, 2, 3, 5, 12), kind, form)
    tensors = (*arguments[:2], *(torch.randn_like(arguments[0]) for _ in range(2)))
    strided = [region.tensor for region in placed(tensors, (layout,) * 4)]

    def gradients_of_streams(function, dtype, **extra):
        (view, time, *grads), parameters = ([x.to(dtype) for x in y] for y in (strided, arguments[2:]))
        leaves = [x.detach().requires_grad_() for x in (view, time)]
        _, named = cast((), keywords, dtype)
        return torch.autograd.grad(function(*leaves, *parameters, **named, **extra), leaves, grads)

    exact, plain = (gradients_of_streams(plain_exchange, dtype) for dtype in (torch.float64, torch.float32))
    results = gradients_of_streams(sync_exchange, torch.float32, backend="cuda")
    for actual, wanted, eager in zip(results, exact, plain, strict=True):
        assert_close_as_pytorch(actual, wanted, eager)


@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_expanded_gradient_of_one_result(kind, used):
    arguments, keywords = exchange_arguments((2, 2, 3, 5, 8), kind, "per channel")
    leaves = [x.detach().requires_grad_() for x in arguments]
    copies = [x.detach().double().requires_grad_() for x in arguments]
    _, exact = cast((), keywords, torch.float64)
    wanted = torch.autograd.grad(plain_exchange(*copies, **exact)[used].sum(), copies, materialize_grads=True)
    actual = torch.autograd.grad(sync_exchange(*leaves, **keywords, backend="cuda")[used].sum(), leaves)
    for x, y in zip(actual, wanted, strict=True):
        assert (x.double() - y).abs().max() <= 1e-5 * max(1.0, y.abs().max())


class Largest(TorchDispatchMode):
    """The largest storage that any torch call returned, but for those of ``known`` tensors."""

    def __init__(self, *known):
        super().__init__()
        self.bytes = 0
        self.known = [x.untyped_storage().data_ptr() for x in known if x is not None]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in self.known:
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("options", [(), OPTIONS], ids=option_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_scratch_does_not_grow_with_the_streams(kind, form, options, monkeypatch):
    monkeypatch.setattr(gpu_chunks, "SCRATCH_BYTES", 64 << 10)
    arguments, keywords = exchange_arguments((1, 4, 4, 125, 32), kind, form, options, torch.bfloat16)
    view, time, weight, bias = arguments
    values = (weight, bias, keywords["input_scale"], keywords["gate"], kind)
    with Largest(view, time, *values[:-1]) as forward:
        cuda.forward(view, time, *values, view, time)
    assert forward.bytes <= 64 << 10 and (forward.bytes > 0 or form == "per channel")
    with Largest(view, time, *values[:-1]) as backward:
        cuda.backward(view, time, view, time, *values)
    assert backward.bytes == view.nbytes, "more than the gradients themselves"


@pytest.mark.parametrize("form", FORMS)
def test_nan_stays_in_its_token(form):
    arguments, keywords = exchange_arguments((2, 2, 3, 5, 8), "soft", form)
    clean = sync_exchange(*arguments, **keywords, backend="cuda")
    arguments[1][1, 0, 2, 3] = float("nan")
    reached = torch.zeros(2, 2, 3, 5, dtype=torch.bool)
    reached[1, 0, 2, 3] = True
    for result, before in zip(sync_exchange(*arguments, **keywords, backend="cuda"), clean, strict=True):
        assert torch.equal(result[~reached], before[~reached]) and result[reached].isnan().all()


def test_opcheck():
    (view, time, weight, bias), keywords = exchange_arguments((1, 2, 2, 3, 8), "soft", "per channel")
    leaves = [x.requires_grad_() for x in (view, time, weight, bias, keywords["input_scale"], keywords["gate"])]
    torch.library.opcheck(torch.ops.fourreal_kernels.sync_exchange, (*leaves, "soft", "cuda", True))


def test_never_chosen_unless_named():
    arguments, keywords = exchange_arguments((1, 2, 2, 3, 8), "soft", "dense")
    explanation = explain("sync_exchange", *arguments, **keywords)
    assert explanation.chosen != "cuda" and explanation.reasons["cuda"] == "can run; only when named"


def test_float64_is_refused():
    arguments, keywords = exchange_arguments((1, 2, 2, 3, 8), "hard", "per channel", dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="arithmetic is in float32, the call is in float64"):
        sync_exchange(*arguments, **keywords, backend="cuda")


@pytest.mark.gpu
def test_more_rows_than_32_bits_count(target):
    if target == "cpu":
        pytest.skip("needs 9 GB on a GPU")
    view, time = torch.randn(2, 1, 1, 2**16 + 1, 2**15 + 1, 1, dtype=torch.bfloat16).unbind(0)
    ends = [slice(0, 3), slice(-3, None)]
    before = [((view[:, :, end].float() + time[:, :, end].float()) / 2).bfloat16() for end in ends]
    sync_exchange_(view, time, torch.full((2, 1), 0.5, dtype=torch.bfloat16), kind="hard", backend="cuda")
    for end, wanted in zip(ends, before, strict=True):
        assert bitwise_equal(view[:, :, end], wanted) and bitwise_equal(time[:, :, end], wanted)
