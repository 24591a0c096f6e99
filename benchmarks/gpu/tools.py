"""What other programs find: the build of the CUDA library, the sanitizers of CUDA, and the tests on the GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from fourreal_kernels import dispatch
from fourreal_kernels.ops import triton_support

from .block import Absent, Job, Result, Settings
from .operations import TINY, operations

_ROOT = Path(__file__).parents[2]
_TAIL = 1500
_CUDA = Path("/usr/local/cuda/bin")
_MICROTESTS = _ROOT / "build/hopper_microtests"
PRIMITIVES = ("tma_box", "bulk_row", "tma_store", "mbarrier_ring", "mbarrier_ring_lanes", "wgmma_ss_bf16",
              "wgmma_ss_fp16", "wgmma_ss_96_columns", "wgmma_rs_bf16", "wgmma_rs_fp16", "wgmma_mn_major_bf16",
              "wgmma_mn_major_fp16")
# One test session compiles many kernels: several processes share it where pytest can.
_WORKERS = 8


def machine_jobs(settings: Settings) -> Iterator[Job]:
    """The GPU, the versions, and which of our backends load."""
    yield "machine", lambda: _machine(settings)


def _machine(settings: Settings) -> Result:
    found: Result = {"torch": torch.__version__, "triton": _triton_version(), "python": sys.version.split()[0]}
    if settings.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "arch": triton_support.arch_of(torch.device("cuda", 0)),
                  "multiprocessors": properties.multi_processor_count, "cuda": torch.version.cuda}
    found["tools"] = {name: _tool(name) for name in ("nvcc", "compute-sanitizer", "ncu", "nvidia-smi")}
    found["backends"] = {
        op.name: {name: dispatch.load(op.name, name).unavailable() or "available" for name in op.backends}
        for op in dispatch.operators()
    }
    return found


def _triton_version() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return None
    import triton

    return triton.__version__


def _tool(name: str) -> str | None:
    return shutil.which(name) or (str(_CUDA / name) if (_CUDA / name).is_file() else None)


def _required(name: str) -> str:
    found = _tool(name)
    if found is None:
        raise Absent(f"{name} is not on this machine")
    return found


def build_jobs(settings: Settings) -> Iterator[Job]:
    """The native libraries in place, by the machine's own compilers."""
    yield "setup.py build_ext --inplace", _build


def _build() -> Result:
    nvcc = _required("nvcc")
    if importlib.util.find_spec("pybind11") is None:
        raise Absent("pybind11 is not installed")
    output = _checked([sys.executable, "setup.py", "build_ext", "--inplace"], 170, CUDACXX=nvcc)
    from fourreal_kernels import native

    library = native.cuda_library()
    assert library is not None, native.why_missing("cuda")
    return {"build": library.build_info(), "devices": library.device_count(), "printed": output[-_TAIL:]}


def primitive_jobs(settings: Settings) -> Iterator[Job]:
    """The micro-tests of the Hopper primitives, each a process with its own limit: a wrong barrier hangs."""
    yield "nvcc hopper_microtests.cu", _build_primitives
    for name in PRIMITIVES:
        yield name, lambda n=name: _primitive([], [n], 20)
    yield "memcheck", lambda: _primitive([_required("compute-sanitizer"), "--error-exitcode", "9"], [], 60)


def _build_primitives() -> Result:
    if torch.cuda.get_device_capability() != (9, 0):
        raise Absent("the kernels need compute capability 9.0")
    _MICROTESTS.parent.mkdir(exist_ok=True)
    sources = ("tests/native/hopper_microtests/hopper_microtests.cu", "csrc/cuda/hopper_tensor_map.cu")
    printed = _checked([_required("nvcc"), "-O3", "-std=c++17", "-arch", "sm_90a", "-Icsrc/include", "-Icsrc/cuda",
                        *sources, "-o", str(_MICROTESTS)], 90)
    return {"printed": printed[-_TAIL:]}


def _primitive(prefix: list[str], names: list[str], seconds: float) -> Result:
    """Run the named micro-tests, all of them when none is named."""
    if not _MICROTESTS.is_file():
        raise Absent("the micro-tests were not built")
    return {"printed": _checked([*prefix, str(_MICROTESTS), *names], seconds)[-_TAIL:]}


def sanitizer_jobs(settings: Settings) -> Iterator[Job]:
    """memcheck and racecheck over every operator at a tiny size, after a plain run that compiles the kernels."""
    for backend in settings.backends:
        yield f"{backend}: plain", lambda b=backend: _tiny_process(b, [])
        for tool in ("memcheck", "racecheck"):
            yield f"{backend}: {tool}", lambda b=backend, t=tool: _sanitized(b, t)


def _sanitized(backend: str, tool: str) -> Result:
    sanitizer = [_required("compute-sanitizer"), "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
    # every tensor an allocation of its own, so that an access beside it is seen
    result = _tiny_process(backend, sanitizer, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    summary = re.search(r"(ERROR SUMMARY|RACECHECK SUMMARY): .*", result["printed"])
    assert summary, f"{tool} gave no summary: {result['printed'][-_TAIL:]}"
    return {"summary": summary[0]}


def _tiny_process(backend: str, prefix: list[str], **environment: str) -> Result:
    printed = _checked([*prefix, sys.executable, "-m", "benchmarks.gpu.tiny", backend], 170, **environment)
    return {"printed": printed[-_TAIL:]}


def run_tiny(backend: str, device: str) -> tuple[int, list[str]]:
    """Every operator once at a tiny size; how many ran, and those that the backend refuses."""
    refused, ran = [], 0
    with torch.device(device):
        for operation in operations():
            try:
                _, run = operation.build(backend, TINY, torch.bfloat16 if device == "cuda" else torch.float32)
                results = run()
            except NotImplementedError:
                refused.append(operation.name)
                continue
            assert all(x.isfinite().all() for x in results), f"{operation.name}: not finite"
            ran += 1
    return ran, refused


def pytest_jobs(settings: Settings) -> Iterator[Job]:
    """The tests of the operators with every tensor on the GPU, those of the kernels, and those marked gpu."""
    yield "tests marked gpu", lambda: _pytest(["-m", "gpu", "tests/native"])
    yield "tests/triton", lambda: _pytest(["tests/triton"])
    for backend in settings.backends:
        yield f"tests/ops of {backend}", lambda b=backend: _pytest(["-k", b, "tests/ops"])


def _pytest(arguments: list[str]) -> Result:
    parallel = ["-n", str(_WORKERS)] if importlib.util.find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel, *arguments]
    printed = _checked(command, 200, FOURREAL_TEST_DEVICE="cuda")
    return {"printed": printed[-_TAIL:]}


def _checked(command: list[str], seconds: float, **environment: str) -> str:
    """What a program prints; AssertionError with the end of it when it fails."""
    search = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            command, cwd=_ROOT, env=os.environ | {"PYTHONPATH": search} | environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=seconds, errors="replace",
        )
    except subprocess.TimeoutExpired as stopped:
        printed = (stopped.stdout or b"").decode(errors="replace")
        raise AssertionError(f"not done after {seconds:.0f} s: {printed[-_TAIL:]}") from None
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stdout[-_TAIL:]}"
    return done.stdout
