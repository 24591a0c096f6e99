"""Every shipped configuration compiles for its chip, within registers and shared memory, and uses its matrix units."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

import fourreal_kernels
from fourreal_kernels import dispatch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from fourreal_kernels.ops.triton_cases import CompileCase, case_modules
from triton_compile import ARCHS, SHARED_MEMORY, compile_case

assert fourreal_kernels.__all__, "the operators are registered by the import of the package"


def _cases() -> list:
    return [
        pytest.param(arch, case, id=f"{arch}-{op}-{case.name}")
        for op, module in case_modules().items() for arch in ARCHS for case in module.compile_cases(arch)
    ]


def test_every_operator_with_a_triton_backend_has_cases():
    packages = {op.package for op in dispatch.operators() if "triton" in op.backends}
    assert [package for package in packages if find_spec(f"{package}.triton_cases") is None] == []


@pytest.mark.parametrize("arch, case", _cases())
def test_compiles_within_the_chip(arch: str, case: CompileCase):
    compiled = compile_case(case, arch)
    assert (compiled.spill_stores, compiled.spill_loads) == (0, 0), f"spills, at {compiled.registers} registers"
    assert compiled.shared_memory <= SHARED_MEMORY[arch]
    if arch == "sm_90" and compiled.has_dot_of_16_bits:
        assert "wgmma.mma_async" in compiled.ptx
