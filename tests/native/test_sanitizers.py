"""The CPU kernels, built with AddressSanitizer and UndefinedBehaviorSanitizer: direct calls and the operator tests.

Nothing outside a tensor is read or written, and no behaviour is undefined, for every kernel and instruction set.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourreal_kernels import native

ROOT = Path(__file__).resolve().parents[2]
CALLS = Path(__file__).with_name("sanitized_calls.py")
# Kernels that are given tensors.
KERNELS = (
    "axis_attention_forward",
    "axis_attention_forward_pair",
    "axis_attention_backward",
    "qk_norm_rope",
    "qk_norm_rope_backward",
    "sync_exchange_channel",
    "sync_exchange_channel_backward",
    "sync_exchange_stage",
    "sync_exchange_finish",
)
OPERATOR_TESTS = (
    "ops/test_axis_attention.py",
    "ops/test_axis_attention_grad.py",
    "ops/test_two_stream_attention.py",
    "ops/test_qk_norm_rope.py",
    "ops/test_sync_exchange.py",
    "ops/test_sync_exchange_chunks.py",
    "ops/test_sync_exchange_norm.py",
    "ops/test_in_place.py",
    "native/test_qk_norm_rope_native.py",
    "native/test_sync_exchange_forms.py",
    "native/test_sync_exchange_native.py",
)
# torch.compile builds with the compiler, and its programs would be started with the sanitizer.
NOT_OF_THE_KERNELS = "not reference and not sdpa and not gradcheck and not compiled"

pytestmark = pytest.mark.slow


def find_tool(name: str) -> str | None:
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)


def runtime_of(library: str) -> str | None:
    """Path of a library of the compiler, which answers with the bare name if it has none."""
    answer = subprocess.run(["gcc", f"-print-file-name={library}"], capture_output=True, text=True).stdout.strip()
    return answer if os.path.isabs(answer) else None


@pytest.fixture(scope="session")
def sanitized_environment() -> dict[str, str]:
    """Of a Python process that can load a sanitized module."""
    if shutil.which("gcc") is None or shutil.which("g++") is None:
        pytest.skip("gcc and g++ are not on PATH")
    asan, cxx = runtime_of("libasan.so"), runtime_of("libstdc++.so.6")
    if asan is None or cxx is None:
        pytest.skip("gcc has no libasan")
    return os.environ | {
        # The C++ library with it: AddressSanitizer looks for its exceptions when it starts, and Python brings none.
        "LD_PRELOAD": f"{asan} {cxx}",
        "ASAN_OPTIONS": "detect_leaks=0",  # an interpreter frees little at exit
        "OMP_WAIT_POLICY": "PASSIVE",
    }


@pytest.fixture(scope="session")
def sanitized_module(tmp_path_factory, sanitized_environment) -> Iterator[Path]:
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    if cmake is None:
        pytest.skip("cmake is not installed")
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed")
    build = tmp_path_factory.mktemp("sanitized")
    configure = [
        *(cmake, "-S", str(ROOT), "-B", str(build), "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DCMAKE_CXX_COMPILER=g++"),
        *("-DFOURREAL_CUDA=OFF", "-DFOURREAL_SANITIZE=ON", f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={build / 'lib'}"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
        *(("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}") if ninja else ()),
    ]
    for command in (configure, [cmake, "--build", str(build), "--parallel", str(os.cpu_count() or 1)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    (module,) = (build / "lib").glob("_cpu*.so")
    yield module
    shutil.rmtree(build)  # pytest would keep its hundreds of megabytes


@pytest.fixture(scope="session")
def tree(tmp_path_factory, sanitized_module) -> Path:
    """The checkout by links, with the sanitized module in place of the built one."""
    tree = tmp_path_factory.mktemp("tree")
    package = tree / "fourreal_kernels"
    package.mkdir()
    for name in ("pyproject.toml", "tests", "benchmarks"):
        (tree / name).symlink_to(ROOT / name)
    for path in (ROOT / "fourreal_kernels").iterdir():
        if path.suffix != ".so" and path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    (package / sanitized_module.name).symlink_to(sanitized_module)
    return tree


def run(*arguments: str, environment: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_every_kernel(sanitized_module, sanitized_environment):
    done = run(str(CALLS), str(sanitized_module), environment=sanitized_environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(KERNELS) <= set(done.stdout.split())


@pytest.mark.parametrize("kernel", KERNELS)
def test_access_beyond_a_tensor_is_caught(kernel, sanitized_module, sanitized_environment):
    done = run(str(CALLS), str(sanitized_module), "--beyond", kernel, environment=sanitized_environment)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr
    assert "csrc/cpu" in done.stderr


@pytest.mark.parametrize("kernel", ["axis_attention_forward", "qk_norm_rope", "sync_exchange_channel"])
def test_access_between_the_rows_of_a_slice_is_caught(kernel, sanitized_module, sanitized_environment):
    done = run(str(CALLS), str(sanitized_module), "--beyond", kernel, "--fenced", environment=sanitized_environment)
    assert done.returncode != 0
    assert "AddressSanitizer: use-after-poison" in done.stderr, done.stderr


def test_undefined_behaviour_is_caught(sanitized_module, sanitized_environment):
    done = run(str(CALLS), str(sanitized_module), "--misaligned", environment=sanitized_environment)
    assert done.returncode != 0
    assert "runtime error: load of misaligned address" in done.stderr, done.stderr


def test_operator_tests(tree, sanitized_module, sanitized_environment):
    code = "from fourreal_kernels import native; print(native.cpu_library().__file__)"
    loaded = run("-c", code, environment=sanitized_environment, cwd=tree)
    assert Path(loaded.stdout.strip()).resolve() == sanitized_module, loaded.stderr
    files = [f"tests/{name}" for name in OPERATOR_TESTS]
    arguments = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", NOT_OF_THE_KERNELS]
    done = run(*arguments, environment=sanitized_environment, cwd=tree)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.skipif(native.cpu_library() is None, reason=native.why_missing("cpu"))
def test_every_kernel_is_listed():
    takes_tensors = {name for name in dir(native.cpu_library()) if name.startswith(("axis_", "qk_", "sync_"))}
    assert takes_tensors == set(KERNELS)
