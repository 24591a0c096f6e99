"""Every shipped configuration compiles for its chip, within registers and shared memory, and uses its matrix units."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from fourreal_kernels import dispatch, tuning
from triton_compile import ARCHS, SHARED_MEMORY
from triton_pool import CompilePool, Key, cases

CASES = {key: case for arch in ARCHS for key, case in cases(arch).items()}
# One chip for each configuration that several share: for its own instructions, else for its small shared memory.
FIRST_CHIPS = ("sm_90", "sm_120", "sm_80", "sm_100")


def first_compilations() -> set[Key]:
    """The cases of which `make test` compiles the configuration; `make test-all` repeats it for the other chips."""
    firsts: dict[tuple, Key] = {}
    for key in sorted(CASES, key=lambda key: FIRST_CHIPS.index(key[1])):
        case = CASES[key]
        configuration = (key[0], case.name, str(case.constexprs), case.num_warps, case.num_stages)
        firsts.setdefault(configuration, key)
    return set(firsts.values())


@pytest.fixture(scope="module")
def pool(request) -> Iterator[CompilePool]:
    """Works on the cases of all chosen tests from the first one on."""
    chosen = [item.callspec.params["key"] for item in request.session.items
              if item.module is request.module and "key" in getattr(item, "fixturenames", ())]
    pool = CompilePool(chosen)
    yield pool
    pool.close()


def test_every_operator_with_a_triton_backend_has_cases():
    packages = {op.package for op in dispatch.operators() if "triton" in op.backends}
    assert [package for package in packages if find_spec(f"{package}.triton_cases") is None] == []


@pytest.mark.parametrize("arch", ARCHS)
def test_every_shipped_configuration_has_a_case(arch: str, monkeypatch):
    """A case has a configuration by asking for it, or has its values."""
    asked = []
    plain = tuning._config

    def asking(kernel: str, *arguments):
        asked.append((kernel, plain(kernel, *arguments)))
        return asked[-1][1]

    monkeypatch.setattr(tuning, "_config", asking)
    compiled = [
        {**case.constexprs, "num_warps": case.num_warps, "num_stages": case.num_stages}
        for case in cases(arch).values()
    ]
    missing = [
        (file.stem, entry) for file in sorted(tuning.SHIPPED.glob("*.json"))
        for entry in tuning.shipped_entries(file.stem, arch)
        if (file.stem, entry["config"]) not in asked and not any(_has(case, entry["config"]) for case in compiled)
    ]
    assert missing == []


def _has(case: dict, config: dict[str, int]) -> bool:
    return all(case.get(name) == value for name, value in config.items())


def _parameters() -> list:
    firsts = first_compilations()
    return [pytest.param(key, id=f"{key[1]}-{key[0]}-{case.name}", marks=() if key in firsts else pytest.mark.slow)
            for key, case in CASES.items()]


@pytest.mark.parametrize("key", _parameters())
def test_compiles_within_the_chip(key: Key, pool: CompilePool):
    arch = key[1]
    compiled = pool.result(key)
    assert (compiled.spill_stores, compiled.spill_loads) == (0, 0), f"spills, at {compiled.registers} registers"
    assert compiled.shared_memory <= SHARED_MEMORY[arch]
    if arch == "sm_90" and compiled.has_dot_of_16_bits:
        assert "wgmma.mma_async" in compiled.ptx
