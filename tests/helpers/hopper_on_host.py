"""The Hopper kernels compiled for the host, their instructions emulated: needs g++ and pybind11, no nvcc."""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from cuda_on_host import gpu_library, run_backends_on_host

ROOT = Path(__file__).resolve().parents[2]
EMULATION = ROOT / "tests/native/hopper_on_host"
# Orders of threads and copies: copies at once, copies as late as possible, and random ones (see block.hpp).
EAGER, LAZY, RANDOM = 0, 1, 5


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="hopper_on_host_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _compile(source: Path, target: Path, *options: str) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not on PATH")
    command = ["g++", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-unknown-pragmas",
               *options, f"-I{ROOT / 'csrc/include'}", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def compile_kernels(cuda: Path, folder: Path) -> list[Path]:
    """Object files of the kernels in the folder ``cuda``, which may be a changed copy of csrc/cuda."""
    def compiled(name: str) -> Path:
        return _compile(EMULATION / f"{name}.cpp", folder / f"{name}.o", "-c", "-O2", f"-I{cuda}", f"-I{EMULATION}")

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compiled, ("kernels", "backward_kernels")))


@cache
def _binding(source: Path) -> Path:
    pybind11 = pytest.importorskip("pybind11", reason="needs pybind11's headers")
    include = (pybind11.get_include(), sysconfig.get_path("include"), ROOT / "python_bindings")
    return _compile(source, _folder() / f"{source.stem}.o", "-c", "-O0", "-fvisibility=hidden",
                    *(f"-I{path}" for path in include))


def link_module(kernels: list[Path], folder: Path) -> Path:
    """A `_cuda` module with the bound functions of these kernels and ``set_launches``."""
    sources = (EMULATION / "module.cpp", ROOT / "python_bindings/cuda_hopper.cpp")
    with ThreadPoolExecutor(2) as pool:
        bindings = list(pool.map(_binding, sources))
    module = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(["g++", "-shared", *map(str, (*kernels, *bindings)), "-o", str(module)], check=True)
    return module


def load(module: Path) -> ModuleType:
    # pybind11 hands out one module per full name: the folder makes it unique.
    spec = importlib.util.spec_from_file_location(f"{module.parent.name}._cuda", module)
    assert spec is not None and spec.loader is not None
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    return library


@cache
def module_path() -> Path:
    return link_module(compile_kernels(ROOT / "csrc/cuda", _folder()), _folder())


@cache
def hopper_library() -> ModuleType:
    """The `_cuda` module of the kernels as they are."""
    return load(module_path())


def hopper_target(target: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """For a fixture: the device of the tensors that the "cuda" backend takes, "host" or "gpu" being the target."""
    torch.manual_seed(0)
    if target == "gpu":
        gpu_library()
        if torch.cuda.get_device_capability() != (9, 0):
            pytest.skip(f"needs compute capability 9.0, the GPU has {torch.cuda.get_device_capability()}")
        return "cuda"
    set_order("cpu", EAGER)
    run_backends_on_host(monkeypatch, hopper_library())
    return "cpu"


def set_order(device: str, order: int) -> None:
    """Of threads and copies, where they are emulated; two blocks run, one after the other."""
    if device == "cpu":
        hopper_library().set_launches(2, order)


def surrounded(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """A NaN-filled buffer and a destination inside of it that a tensor map describes."""
    b, v, t, n, h, d = shape
    buffer = torch.full((b + 2, v + 2, t + 2, n + 2, h * d + 16), float("nan"), dtype=dtype, device=device)
    inside = buffer[1 : 1 + b, 1 : 1 + v, 1 : 1 + t, 1 : 1 + n, 8 : 8 + h * d]
    return buffer, inside.unflatten(-1, (h, d))


def wrong_with(direction: str, name: str, text: str, replacement: str, folder: Path) -> bool:
    """Whether compare.py notices that csrc/cuda/``name`` has ``replacement`` in place of ``text``."""
    changed = folder / "cuda"
    shutil.copytree(ROOT / "csrc/cuda", changed)
    source = (changed / name).read_text()
    assert source.count(text) == 1
    (changed / name).write_text(source.replace(text, replacement))
    module = link_module(compile_kernels(changed, folder), folder)
    done = subprocess.run([sys.executable, str(EMULATION / "compare.py"), str(module), direction], cwd=ROOT,
                          capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode in (1, 86)


@cache
def microtests() -> Path:
    """The program of the primitives' micro-tests."""
    return _compile(EMULATION / "microtests.cpp", _folder() / "microtests", "-O1", f"-I{ROOT / 'csrc/cuda'}",
                    f"-I{EMULATION}")
