"""The CUDA sources compiled for the host, where a block's threads are fibers: `_cuda` modules that need no GPU.

What is compiled is kept for the test run and shared by its processes.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fourreal_kernels import native
from fourreal_kernels.ops import cuda_support
from run_folder import built_once, run_folder

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "tests/native/cuda_on_host"
CUDA = ROOT / "csrc/cuda"
BINDINGS = ROOT / "python_bindings"
RUNTIME = (SHIM / "runtime.cpp", SHIM / "fiber.cpp")
# What a module has besides its operators.
BASE = (CUDA / "device.cu", BINDINGS / "cuda.cpp")
# The targets of a test: its `target` fixture is parametrised by them.
TARGETS = ("host", pytest.param("gpu", marks=pytest.mark.gpu))

_SANITIZED = "FOURREAL_SANITIZED_CUDA_ON_HOST"
_SANITIZERS = ("-fsanitize=address", "-fsanitize=undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer",
               "-fsanitize-sections=cuda_on_host_shared", "-g1")
_COMMON = ("-std=c++17", "-fPIC", "-fvisibility=hidden")


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1)


def _run(*command: str | Path) -> None:
    # The compilers do without the sanitizer that may be loaded here.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def _require_tools() -> None:
    for tool in ("nvcc", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not on PATH")
    pytest.importorskip("pybind11", reason="needs pybind11's headers")


def _binding_options() -> list[str]:
    import pybind11

    names = ("FOURREAL_VERSION", "FOURREAL_CUDA_COMPILER", "FOURREAL_CUDA_ARCHS")
    include = (ROOT / "csrc/include", BINDINGS, pybind11.get_include(), sysconfig.get_path("include"))
    return [*_COMMON, "-O0", *(f"-I{path}" for path in include), *(f'-D{name}=""' for name in names)]


@cache
def _pybind11_header() -> Future[Path]:
    """pybind11, precompiled: it takes several times longer than a binding file."""
    text = "#include <pybind11/pybind11.h>\n#include <pybind11/stl.h>\n"

    def compile_header() -> Path:
        header = built_once("bindings.hpp", lambda path: path.write_text(text))
        built_once("bindings.hpp.gch", lambda path: _run(
            "g++", *_binding_options(), "-x", "c++-header", header, "-o", path))
        return header

    return _workers().submit(compile_header)


def _compile_binding(source: Path, target: Path, header: Path | None) -> None:
    _run("g++", *_binding_options(), *(("-include", header) if header else ()), "-c", source, "-o", target)


def _compile_cuda(source: Path, target: Path, sanitized: bool) -> None:
    """A .cu file with CUDA's names from the shim, or a part of the shim; nvcc knows where CUDA's headers are."""
    # Sanitized code takes twice as long to optimise as it then saves.
    options = [*_COMMON, *(("-O0", *_SANITIZERS) if sanitized else ("-O1",))]
    named = ("-include", SHIM / "shim.hpp") if source.suffix == ".cu" else ()
    include = (ROOT / "csrc/include", CUDA)
    _run("nvcc", "-x", "c++", *(f"-Xcompiler={option}" for option in options), *named,
         *(f"-I{path}" for path in include), "-c", source, "-o", target)


@cache
def _object(source: Path, sanitized: bool) -> Future[Path]:
    name = f"{source.parent.name}.{source.name}{'.sanitized' if sanitized else ''}.o"
    if source.parent == BINDINGS:
        header = _pybind11_header().result()
        return _workers().submit(built_once, name, lambda path: _compile_binding(source, path, header))
    return _workers().submit(built_once, name, lambda path: _compile_cuda(source, path, sanitized))


def _operators_bound() -> list[str]:
    return sorted(path.stem.removeprefix("cuda_") for path in BINDINGS.glob("cuda_*.cpp"))


def _stubs(operators: Iterable[str], folder: Path) -> Path:
    """Defines the bind_<op> of the operators that a module is built without."""
    source = folder / "stubs.cpp"
    bodies = "".join(f"void bind_{name}(pybind11::module_&) {{}}\n" for name in operators)
    source.write_text("namespace pybind11 { class module_; }\nnamespace fourreal::bindings {\n" + bodies + "}\n")
    return source


def shim_sources() -> tuple[str, ...]:
    """Every csrc/cuda/<source>.cu of an operator that the shim can run: all but those of Hopper's own instructions."""
    names = sorted(path.stem for path in CUDA.glob("*.cu") if path not in BASE)
    return tuple(name for name in names if not name.startswith("hopper"))


def _binding_of(source: str) -> str:
    """The operator whose binding calls csrc/cuda/<source>.cu: the longest whose name the source's begins with."""
    candidates = [name for name in _operators_bound() if source.startswith(name)]
    if not candidates:
        raise AssertionError(f"{source}.cu: no python_bindings/cuda_<op>.cpp has its name or the begin of it")
    return max(candidates, key=len)


def _module(sources: tuple[str, ...], sanitized: bool) -> Path:
    """The `_cuda` module of csrc/cuda/<source>.cu for every source, with their bindings."""
    _require_tools()
    _pybind11_header()  # the longest: first
    operators = {_binding_of(source) for source in sources}
    kernels = [_object(path, sanitized) for path in (*RUNTIME, BASE[0], *(CUDA / f"{name}.cu" for name in sources))]
    bindings = [_object(path, False) for path in (BASE[1], *(BINDINGS / f"cuda_{name}.cpp" for name in operators))]
    folder = Path(tempfile.mkdtemp(dir=run_folder()))
    stubs = _stubs((name for name in _operators_bound() if name not in operators), folder)
    module = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    _compile_binding(stubs, folder / "stubs.o", None)
    _link(module, [folder / "stubs.o", *(built.result() for built in (*kernels, *bindings))], sanitized, "-shared")
    return module


@cache
def host_program(source: Path, sanitized: bool = False) -> Path:
    """A .cu file with a main function, compiled with the shim. Skips the test where the tools are missing."""
    _require_tools()
    built = [_object(path, sanitized) for path in (*RUNTIME, source)]
    objects = [part.result() for part in built]
    return built_once(f"{source.stem}{'.sanitized' if sanitized else ''}", lambda path: _link(path, objects, sanitized))


def _link(target: Path, objects: Iterable[Path], sanitized: bool, *options: str) -> None:
    sanitizers = [f"-Xcompiler={option}" for option in _SANITIZERS if sanitized]
    _run("nvcc", *options, *sanitizers, *objects, "-o", target)


def _load(module: Path) -> ModuleType:
    # pybind11 hands out one module per full name: the folder makes it unique.
    spec = importlib.util.spec_from_file_location(f"{module.parent.name}._cuda", module)
    assert spec is not None and spec.loader is not None
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    return library


@cache
def host_library(sources: tuple[str, ...]) -> ModuleType:
    """The functions of the built `_cuda` that the csrc/cuda/<source>.cu have, for host memory.

    Takes addresses of CPU tensors and ignores the stream. Skips the test where nvcc, g++ or pybind11 is missing.
    """
    return _load(_module(sources, sanitized=os.environ.get(_SANITIZED) == "1"))


def gpu_library() -> ModuleType:
    """The built `_cuda` on a machine with a GPU; skips the test elsewhere, in CUDA's words."""
    reason = cuda_support.why_unavailable()
    if reason:
        pytest.skip(reason)
    return native.cuda_library()


def target_library(target: str, sources: tuple[str, ...]) -> tuple[ModuleType, str]:
    """(library, device of the tensors) of "host" or "gpu"."""
    return (host_library(sources), "cpu") if target == "host" else (gpu_library(), "cuda")


def backend_target(target: str, monkeypatch: pytest.MonkeyPatch, sources: tuple[str, ...]) -> Iterator[str]:
    """For a fixture: the "cuda" backends take the tensors, which are created where they run; gives their device."""
    if target == "host":
        run_backends_on_host(monkeypatch, host_library(sources))
        yield "cpu"
    else:
        gpu_library()
        with torch.device("cuda"):
            yield "cuda"


def run_backends_on_host(monkeypatch: pytest.MonkeyPatch, library: ModuleType) -> None:
    """Make the operators' "cuda" backends take CPU tensors and run ``library``."""
    monkeypatch.setattr(native, "cuda_library", lambda: library)
    monkeypatch.setattr(cuda_support, "why_unavailable", lambda: None)
    monkeypatch.setattr(cuda_support, "refuse_device", lambda call: None)


def _runtime_of_gcc(library: str) -> str:
    answer = subprocess.run(["gcc", f"-print-file-name={library}"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(answer):
        pytest.skip(f"gcc has no {library}")
    return answer


@cache
def sanitized_environment() -> dict[str, str]:
    """Of a Python process that can load a sanitized module, and in which :func:`host_library` builds those."""
    _require_tools()
    preload = f"{_runtime_of_gcc('libasan.so')} {_runtime_of_gcc('libstdc++.so.6')}"
    return os.environ | {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0", _SANITIZED: "1"}


def run_tests_sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m pytest *arguments`` in a process in which every :func:`host_library` is a sanitized one.

    Output is not captured: a report of the sanitizer ends the process.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=sanitized_environment(), capture_output=True, text=True)
