"""Compiles a kernel for a chip without a GPU, and reads what it takes of the chip."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fourreal_kernels.ops.triton_cases import CompileCase

# Bytes of shared memory that one block may have.
SHARED_MEMORY = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "sm_120": 99 * 1024}
ARCHS = tuple(SHARED_MEMORY)

_ALIGNED = [["tt.divisibility", 16]]
_WARP = 32
_DOT_OF_16_BITS = re.compile(r"tt\.dot .*: tensor<\w+x(?:bf16|f16)> \* ")


@dataclass(frozen=True)
class Compiled:
    """What ``ptxas`` reports of a kernel, in bytes and registers per thread, and its code."""

    registers: int
    spill_stores: int
    spill_loads: int
    shared_memory: int
    ptx: str
    has_dot_of_16_bits: bool


def compile_case(case: CompileCase, arch: str) -> Compiled:
    """Compile with the stock compiler for ``arch`` (``"sm_90"``)."""
    number = int(arch.removeprefix("sm_"))
    names = case.fn.arg_names
    signature = {name: case.signature.get(name, "constexpr") for name in names}
    source = ASTSource(
        case.fn, signature, {(names.index(name),): value for name, value in case.constexprs.items()},
        {(names.index(name),): _ALIGNED for name in case.divisible},
    )
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    with _assembler_report() as report:
        kernel = triton.compile(source, target=GPUTarget("cuda", number, _WARP), options=options)
    registers = re.search(r"Used (\d+) registers", report.getvalue())
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report.getvalue())
    return Compiled(
        int(registers[1]), int(spills[1]), int(spills[2]), kernel.metadata.shared, kernel.asm["ptx"],
        bool(_DOT_OF_16_BITS.search(kernel.asm["ttir"])),
    )


@contextmanager
def _assembler_report() -> Iterator[io.StringIO]:
    """Receives what the compiler's run of ``ptxas -v`` prints; nothing comes from the compiler's cache."""
    report = io.StringIO()
    with triton.knobs.compilation.scope(), triton.knobs.nvidia.scope(), redirect_stdout(report):
        triton.knobs.compilation.always_compile = True
        triton.knobs.nvidia.dump_ptxas_log = True
        yield report
