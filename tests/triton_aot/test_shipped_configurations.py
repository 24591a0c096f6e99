"""Every shipped configuration compiles for its chip, within registers and shared memory, and uses its matrix units."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from fourreal_kernels import dispatch
from triton_compile import ARCHS, SHARED_MEMORY
from triton_pool import CompilePool, Key, cases

CASES = {key: case for arch in ARCHS for key, case in cases(arch).items()}


@pytest.fixture(scope="module")
def pool(request) -> Iterator[CompilePool]:
    """Works on the cases of all chosen tests from the first one on."""
    chosen = [item.callspec.params["key"] for item in request.session.items
              if item.module is request.module and hasattr(item, "callspec")]
    pool = CompilePool(chosen)
    yield pool
    pool.close()


def test_every_operator_with_a_triton_backend_has_cases():
    packages = {op.package for op in dispatch.operators() if "triton" in op.backends}
    assert [package for package in packages if find_spec(f"{package}.triton_cases") is None] == []


@pytest.mark.parametrize("key", [pytest.param(key, id=f"{key[1]}-{key[0]}-{case.name}") for key, case in CASES.items()])
def test_compiles_within_the_chip(key: Key, pool: CompilePool):
    arch = key[1]
    compiled = pool.result(key)
    assert (compiled.spill_stores, compiled.spill_loads) == (0, 0), f"spills, at {compiled.registers} registers"
    assert compiled.shared_memory <= SHARED_MEMORY[arch]
    if arch == "sm_90" and compiled.has_dot_of_16_bits:
        assert "wgmma.mma_async" in compiled.ptx
