"""The kernels of the built CUDA library: what nvcc said of them when it was built, and their machine code."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from fourreal_kernels import native

ROOT = Path(__file__).resolve().parents[2]
# Where setup.py builds.
BUILD = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"

_FIGURES = re.compile(
    r"ptxas info +: Compiling entry function '(\S+)' for '(\S+)'\n"
    r"ptxas info +: Function properties for \1\n"
    r" +(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
    r"ptxas info +: Used (\d+) registers(?:, used (\d+) barriers)?(?:.*?, (\d+) bytes smem)?.*\n"
)
_OTHER_FIGURES = re.compile(r"ptxas info +: (?:\d+ bytes gmem.*|Compile time = .*)\n")


@dataclass(frozen=True)
class Kernel:
    """What ``ptxas -v`` reports of a kernel: bytes, and registers of a thread."""

    name: str
    arch: str
    stack: int
    spill_stores: int
    spill_loads: int
    registers: int
    barriers: int
    shared: int


def library() -> Path:
    """The built library; skips the test where there is none, or where it was not built in this checkout."""
    built = native.cuda_library()
    if built is None:
        pytest.skip(native.why_missing("cuda"))
    if not BUILD.is_dir():
        pytest.skip(f"the library was not built in this checkout: {BUILD.name} is not in its build folder")
    return Path(built.__file__)


def _object(source: Path) -> Path:
    """What csrc/cuda/<source>.cu became for the library; nvcc's messages are beside it."""
    library()
    return BUILD / f"CMakeFiles/fourreal_cuda.dir/csrc/cuda/{source.name}.o"


def messages(source: Path) -> str:
    """Everything that nvcc said when it compiled csrc/cuda/<source>.cu for the library."""
    return Path(f"{_object(source)}.log").read_text()


def kernels_of(said: str) -> list[Kernel]:
    """The kernels in nvcc's messages, for every chip that they were compiled for."""
    return [Kernel(name, arch, *(int(number or 0) for number in numbers))
            for name, arch, *numbers in _FIGURES.findall(said)]


def besides_figures(said: str) -> str:
    """What is left of nvcc's messages without ptxas's figures: warnings, advice, or spills of what is no kernel."""
    return _OTHER_FIGURES.sub("", _FIGURES.sub("", said))


def _cuobjdump() -> str:
    """From the CUDA toolkit, else from Triton."""
    triton = importlib.util.find_spec("triton")
    folders = [Path(triton.origin).parent / "backends/nvidia/bin"] if triton and triton.origin else []
    for path in (shutil.which("cuobjdump"), *(str(folder / "cuobjdump") for folder in folders)):
        if path and Path(path).is_file():
            return path
    pytest.skip("neither the CUDA toolkit nor Triton brings cuobjdump here")


def _dump(*arguments: str | Path) -> str:
    return subprocess.run([_cuobjdump(), *map(str, arguments)], capture_output=True, text=True, check=True).stdout


@cache
def registers_in_library() -> dict[tuple[str, str], int]:
    """Registers of a thread by (chip, kernel), as the library itself records them."""
    parts = re.split(r"^arch = (\S+)$", _dump("-res-usage", library()), flags=re.MULTILINE)
    return {(arch, name): int(registers) for arch, listing in zip(parts[1::2], parts[2::2], strict=True)
            for name, registers in re.findall(r"Function (\S+):\n +REG:(\d+)", listing)}


def machine_code(source: Path, arch: str) -> dict[str, str]:
    """SASS by kernel of csrc/cuda/<source>.cu, as it was compiled for the library."""
    parts = re.split(r"Function : (\S+)", _dump("-arch", arch, "-sass", _object(source)))
    return dict(zip(parts[1::2], parts[2::2], strict=True))
