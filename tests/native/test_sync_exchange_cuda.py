"""The CUDA per-channel hard exchange: its source run on the host, and the compiled library on a GPU."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch

from cuda_on_host import TARGETS, gpu_library, host_library, target_library
from exchange_cases import (
    CHANNELS,
    WRITABLE_LAYOUTS,
    assert_close,
    check_functional,
    check_in_place,
    exchange,
    make_parameters,
)

SOURCES = ("sync_exchange",)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUT_MIXES = (
    *((name,) * 4 for name in (*WRITABLE_LAYOUTS, "padded")),
    ("expanded", "contiguous", "contiguous", "contiguous"),
    ("permuted", "sliced", "packed", "contiguous"),
)
# Enough channels for several tiles, with and without vector accesses; enough rows for the grid to stride.
MANY_CHANNELS = ((2, 1, 2, 3, 1030), (2, 1, 2, 3, 2400))
MANY_ROWS = (1, 3, 5, 290_000, 1)


@pytest.fixture(autouse=True)
def one_thread():
    """The formula is many small torch calls, which two threads on a busy machine make slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=TARGETS)
def target(request) -> tuple[ModuleType, str]:
    """(library, device of the tensors)."""
    return target_library(request.param, SOURCES)


@pytest.mark.parametrize("mix", LAYOUT_MIXES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_formula(target, dtype, mix):
    library, device = target
    for tokens, channels in itertools.product((1, 7, 65), CHANNELS):
        check_functional(library, (3, 2, 2, tokens, channels), dtype, mix, device)


@pytest.mark.parametrize("sizes", [*MANY_CHANNELS, MANY_ROWS], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_several_tiles_and_blocks(target, dtype, sizes):
    library, device = target
    check_functional(library, sizes, dtype, ("contiguous",) * 4, device)


@pytest.mark.parametrize("layouts", list(itertools.product(WRITABLE_LAYOUTS, repeat=2)), ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_place_is_bitwise_functional(target, dtype, layouts):
    library, device = target
    for channels in (1, 8, 100):
        check_in_place(library, (3, 2, 2, 63, channels), dtype, layouts, device)


def test_float64_is_refused():
    view = torch.randn(1, 1, 1, 2, 4, dtype=torch.float64)
    outputs = torch.zeros(2, *view.shape, dtype=torch.float64)
    with pytest.raises(ValueError, match="dtype: .*got 'float64'"):
        exchange(host_library(SOURCES), view, view, *outputs, make_parameters(1, 4, torch.float64, "cpu"))
    assert not outputs.any()


@pytest.mark.gpu
def test_stream_argument():
    library = gpu_library()
    view, time = torch.randn(2, 2, 3, 4, 100, 64, device="cuda")
    parameters = make_parameters(2, 64, torch.float32, "cuda")
    outputs = torch.full((2, *view.shape), float("nan"), device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    exchange(library, view, time, *outputs, parameters, stream=stream.cuda_stream)
    stream.synchronize()
    assert_close(outputs[0], view, time, parameters, "on a stream")


@pytest.mark.gpu
def test_more_rows_than_32_bits_count():
    library = gpu_library()
    sizes = (1, 1, 2**16 + 1, 2**15 + 1, 1)
    view, time = (torch.randn(sizes, device="cuda").bfloat16() for _ in range(2))
    parameters = make_parameters(1, 1, torch.bfloat16, "cuda")
    ends = (slice(0, 3), slice(-3, None))
    before = [(view[:, :, end].clone(), time[:, :, end].clone()) for end in ends]
    exchange(library, view, time, view, time, parameters)
    for end, (old_view, old_time) in zip(ends, before, strict=True):
        assert_close(view[:, :, end], old_view, old_time, parameters, f"timesteps {end}")
    assert torch.equal(view, time)
