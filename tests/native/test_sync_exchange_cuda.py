"""The CUDA per-channel hard exchange: its source run on the host, and the compiled library on a GPU."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import torch

from exchange_cases import (
    CHANNELS,
    WRITABLE_LAYOUTS,
    assert_close,
    check_functional,
    check_in_place,
    exchange,
    make_parameters,
)
from fourreal_kernels import native

ROOT = Path(__file__).resolve().parents[2]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUT_MIXES = (
    *((name,) * 4 for name in (*WRITABLE_LAYOUTS, "padded")),
    ("expanded", "contiguous", "contiguous", "contiguous"),
    ("permuted", "sliced", "packed", "contiguous"),
)
# Enough channels for several tiles, with and without vector accesses; enough rows for the grid to stride.
MANY_CHANNELS = ((2, 1, 2, 3, 1030), (2, 1, 2, 3, 2400))
MANY_ROWS = (1, 3, 5, 290_000, 1)


def _compile_for_host(nvcc: str, module: Path) -> None:
    pybind11 = pytest.importorskip("pybind11", reason="needs pybind11's headers")
    include = (ROOT / "csrc/include", pybind11.get_include(), sysconfig.get_path("include"))
    definitions = ("FOURREAL_VERSION", "FOURREAL_CUDA_COMPILER", "FOURREAL_CUDA_ARCHS")
    command = [
        *(nvcc, "-x", "c++", "-O1", "-std=c++17", "-shared", "-Xcompiler", "-fPIC,-fvisibility=hidden"),
        *(f"-I{path}" for path in include),
        *(f'-D{name}=""' for name in definitions),
        *("-include", str(ROOT / "tests/native/cuda_on_host/shim.hpp"), "-o", str(module)),
        *(str(ROOT / "csrc/cuda/sync_exchange.cu"), str(ROOT / "python_bindings/cuda.cpp")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def one_thread():
    """The formula is many small torch calls, which two threads on a busy machine make slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def on_host(tmp_path_factory) -> ModuleType:
    """The CUDA module compiled as C++: its kernels run thread after thread on host memory."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not on PATH")
    module = tmp_path_factory.mktemp("on_host") / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    _compile_for_host(nvcc, module)
    spec = importlib.util.spec_from_file_location("_cuda", module)
    assert spec is not None and spec.loader is not None
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    return library


@pytest.fixture(scope="module")
def on_gpu() -> ModuleType:
    library = native.cuda_library()
    if library is None:
        pytest.skip(native.why_missing("cuda"))
    if library.device_count() == 0:
        pytest.skip(library.why_no_device())
    return library


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def target(request) -> tuple[ModuleType, str]:
    """(library, device of the tensors)."""
    if request.param == "host":
        return request.getfixturevalue("on_host"), "cpu"
    return request.getfixturevalue("on_gpu"), "cuda"


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


def test_float64_is_refused(on_host):
    view = torch.randn(1, 1, 1, 2, 4, dtype=torch.float64)
    outputs = torch.zeros(2, *view.shape, dtype=torch.float64)
    with pytest.raises(ValueError, match="dtype: .*got 'float64'"):
        exchange(on_host, view, view, *outputs, make_parameters(1, 4, torch.float64, "cpu"))
    assert not outputs.any()


@pytest.mark.gpu
def test_stream_argument(on_gpu):
    view, time = torch.randn(2, 2, 3, 4, 100, 64, device="cuda")
    parameters = make_parameters(2, 64, torch.float32, "cuda")
    outputs = torch.full((2, *view.shape), float("nan"), device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    exchange(on_gpu, view, time, *outputs, parameters, stream=stream.cuda_stream)
    stream.synchronize()
    assert_close(outputs[0], view, time, parameters, "on a stream")


@pytest.mark.gpu
def test_more_rows_than_32_bits_count(on_gpu):
    sizes = (1, 1, 2**16 + 1, 2**15 + 1, 1)
    view, time = (torch.randn(sizes, device="cuda").bfloat16() for _ in range(2))
    parameters = make_parameters(1, 1, torch.bfloat16, "cuda")
    ends = (slice(0, 3), slice(-3, None))
    before = [(view[:, :, end].clone(), time[:, :, end].clone()) for end in ends]
    exchange(on_gpu, view, time, view, time, parameters)
    for end, (old_view, old_time) in zip(ends, before, strict=True):
        assert_close(view[:, :, end], old_view, old_time, parameters, f"timesteps {end}")
    assert torch.equal(view, time)
