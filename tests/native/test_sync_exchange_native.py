"""The compiled CPU per-channel hard exchange, called directly."""

from __future__ import annotations

import itertools

import pytest
import torch

from exchange_cases import (
    CHANNELS,
    DTYPES,
    TOKENS,
    WRITABLE_LAYOUTS,
    Parameters,
    assert_close,
    check_functional,
    check_in_place,
    exchange,
    make_parameters,
)
from fourreal_kernels import native

library = native.cpu_library()
pytestmark = pytest.mark.skipif(library is None, reason=native.why_missing("cpu"))

INSTRUCTION_SETS = library.usable_instruction_sets() if library else []
LAYOUT_MIXES = {
    "contiguous": ("contiguous",) * 4,
    "sliced": ("sliced",) * 4,
    "permuted": ("permuted",) * 4,
    "packed": ("packed",) * 4,
    "padded": ("padded",) * 4,
    "expanded view": ("expanded", "contiguous", "contiguous", "contiguous"),
    "expanded both": ("expanded", "expanded", "sliced", "permuted"),
    "all different": ("permuted", "sliced", "packed", "contiguous"),
}


@pytest.fixture(autouse=True)
def threads():
    """One thread unless a test calls this for more; two on a busy machine make many small calls slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("mix", LAYOUT_MIXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_formula(dtype, mix, channels):
    for tokens in TOKENS:
        views, times = (2, 2) if tokens < 100 else (2, 1)
        check_functional(library, (3, views, times, tokens, channels), DTYPES[dtype], LAYOUT_MIXES[mix])


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (3, 4, 1), (1, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_axes_of_size_one(dtype, shape):
    for tokens, channels, mix in itertools.product((1, 7), (1, 17), LAYOUT_MIXES.values()):
        check_functional(library, (*shape, tokens, channels), DTYPES[dtype], mix)


@pytest.mark.parametrize("sizes", [(2, 1, 1, 3, 40000), (1, 2, 2, 9000, 3), (3, 2, 2, 390, 320)], ids=str)
@pytest.mark.parametrize("mix", LAYOUT_MIXES)
def test_sizes_of_several_tasks(sizes, mix, threads):
    threads(2)
    check_functional(library, sizes, torch.float32, LAYOUT_MIXES[mix])


@pytest.mark.parametrize("present", list(itertools.product((False, True), repeat=3)), ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_optional_arguments(dtype, present):
    bias, input_scale, gate = present
    sizes = (3, 2, 2, 7, 17)
    view, time = torch.randn(2, *sizes).to(DTYPES[dtype])
    parameters = make_parameters(3, 17, view.dtype, "cpu", 0, bias, input_scale, gate)
    outputs = torch.full((2, *sizes), float("nan"), dtype=view.dtype)
    exchange(library, view, time, *outputs, parameters)
    assert_close(outputs[0], view, time, parameters, f"bias, scale, gate present: {present}")
    assert torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("layouts", list(itertools.product(WRITABLE_LAYOUTS, repeat=2)), ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_is_bitwise_functional(dtype, layouts):
    for tokens, channels in itertools.product((1, 63), (1, 17, 64)):
        check_in_place(library, (3, 2, 2, tokens, channels), DTYPES[dtype], layouts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_thread_count_does_not_change_bits(dtype, threads):
    sizes = (3, 2, 2, 390, 100)
    view, time = torch.randn(2, *sizes).to(DTYPES[dtype])
    parameters = make_parameters(3, 100, view.dtype, "cpu")
    results = []
    for count in (1, 2):
        threads(count)
        assert library.max_threads() == count, "the library does not share torch's OpenMP runtime"
        results.append(torch.full((2, *sizes), float("nan"), dtype=view.dtype))
        exchange(library, view, time, *results[-1], parameters)
    assert torch.equal(*results)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_instruction_sets_agree_bitwise(dtype, channels):
    sizes = (3, 2, 1, 65, channels)
    view, time = torch.randn(2, *sizes).to(DTYPES[dtype])
    parameters = make_parameters(3, channels, view.dtype, "cpu")
    results = []
    for name in INSTRUCTION_SETS:
        results.append(torch.full((2, *sizes), float("nan"), dtype=view.dtype))
        exchange(library, view, time, *results[-1], parameters, instruction_set=name)
    assert len(results) >= 1 and not results[0].isnan().any()
    for other in results[1:]:
        assert torch.equal(results[0], other)


@pytest.mark.parametrize("factor", [1.0, 1 / 3, 3.0, 2.0**-9, 2.0**-14 / 3, 2.0**-130, 2.0**120])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_conversions_of_every_value(dtype, name, factor):
    """All 65536 values, scaled for rounding, subnormal results and overflow: the bits of torch's own."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    view = bits.view(DTYPES[dtype]).reshape(1, 1, 1, 1, -1)
    time = torch.zeros_like(view)
    weight = torch.tensor([[factor], [1.0]]).repeat(1, view.shape[-1])
    outputs = torch.empty(2, *view.shape, dtype=view.dtype)
    exchange(library, view, time, *outputs, Parameters(weight), instruction_set=name)
    expected = (weight[0] * view.float() + weight[1] * time.float() + 0.0).to(view.dtype)
    assert torch.equal(outputs[0].isnan(), expected.isnan())
    numbers = ~expected.isnan()
    assert torch.equal(outputs[0][numbers].view(torch.int16), expected[numbers].view(torch.int16))


def test_offsets_beyond_two_to_the_31():
    """Batch entries 2^31 elements apart in one buffer; only its touched pages are ever backed by memory."""
    stride = 2**31
    buffer = torch.empty(stride + 8192, dtype=torch.bfloat16)
    sizes, strides = (2, 1, 1, 7, 100), (stride, 700, 700, 100, 1)
    tensors = [buffer.as_strided(sizes, strides, offset) for offset in (0, 1024, 2048, 3072)]
    view, time, out_view, out_time = tensors
    view.copy_(torch.randn(sizes))
    time.copy_(torch.randn(sizes))
    parameters = make_parameters(2, 100, torch.bfloat16, "cpu")
    exchange(library, view, time, out_view, out_time, parameters)
    assert_close(out_view, view, time, parameters, "batch stride 2^31")
    assert torch.equal(out_view, out_time)


def test_nothing_to_do():
    empty = torch.empty(2, 1, 0, 3, 4)
    exchange(library, empty, empty, empty, empty, make_parameters(2, 4, torch.float32, "cpu"))


SIZES, STRIDES = [2, 1, 1, 3, 4], [12, 12, 12, 4, 1]
WRONG_ARGUMENTS = {
    "kind": ("average", "kind: .*got 'average'"),
    "dtype": ("int8", "dtype: .*got 'int8'"),
    "sizes": ([2, 3, 4], "sizes: expected 5 integers .*got 3"),
    "sizes below 0": ([2, 1, 1, -3, 4], "sizes: .*got -3 for the token axis"),
    "view": ((8, [12, 12, 12, 8, 2]), "view: expected stride 1 for the channel axis, got 2"),
    "time": ((8, [12, 12, 12, -4, 1]), "time: .*got -4 for the token axis"),
    "out_view": ((8, [0, 12, 12, 4, 1]), "out_view: .*batch axis of an output, got 0"),
    "out_time": ((8, [12, 12, 4, 1]), "out_time: expected 5 integers .*got 4"),
    **{f"{name} at 0": ((0, STRIDES), f"{name}: .*got 0") for name in ("view", "time", "out_view", "out_time")},
    "weight at 0": (0, "weight: .*got 0"),
    "instruction_set": ("sse9", "instruction_set: .*got 'sse9'"),
}


@pytest.mark.parametrize("what", WRONG_ARGUMENTS)
def test_bad_arguments(what):
    view, time = torch.randn(2, *SIZES)
    outputs = torch.full((2, *SIZES), float("nan"))
    weight = torch.randn(2, 4)
    tensors = {"view": view, "time": time, "out_view": outputs[0], "out_time": outputs[1]}
    arguments = {
        "kind": "hard", "dtype": "float32", "sizes": SIZES, "weight": weight.data_ptr(),
        **{name: (x.data_ptr(), STRIDES) for name, x in tensors.items()},
    }
    value, message = WRONG_ARGUMENTS[what]
    with pytest.raises(ValueError, match=message):
        library.sync_exchange_channel(**(arguments | {what.split()[0]: value}))
    assert outputs.isnan().all()
