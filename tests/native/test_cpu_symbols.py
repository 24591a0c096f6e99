"""No code of one instruction set runs where another was chosen.

Headers are compiled once per instruction set. Of an inline function outside the namespaces of the sets that a compiler
did not inline, the linker keeps one version, perhaps the AVX-512 one, for all: the portable kernels would then stop
older processors. So the library is searched for wide instructions outside the functions that may have them.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from fourreal_kernels import native

LIBRARY = native.cpu_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=native.why_missing("cpu"))

# As mangled: also in the template arguments of a function of another namespace, which makes it one of the set.
AVX2, AVX512 = "4avx2", "6avx512"
# AVX mnemonics begin with v, as no older ones do; only AVX-512 has zmm, masks and registers from 16 on.
VEX = re.compile(r"^ +[0-9a-f]+:\tv(?!err|erw).*$", re.MULTILINE)
EVEX = re.compile(r"^.*(?:%zmm|\{%k|%[xy]mm(?:1[6-9]|2\d|3[01])\b).*$", re.MULTILINE)


@pytest.fixture(scope="module")
def functions() -> dict[str, str]:
    """Mangled names and listings."""
    if "avx512" not in LIBRARY.build_info()["archs"]:
        pytest.skip("the library has code for one instruction set only")
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not on PATH")
    command = ["objdump", "-d", "--no-show-raw-insn", "-j", ".text", LIBRARY.__file__]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    named = re.findall(r"^[0-9a-f]+ <([^\n]*)>:\n(.*?)(?:\n\n|\Z)", listing, re.MULTILINE | re.DOTALL)
    if not any(AVX512 in name for name, _ in named):
        pytest.skip("the library has no symbols: it was stripped")
    return dict(named)


def offenders(functions: dict[str, str], instructions: re.Pattern[str], allowed: tuple[str, ...]) -> list[str]:
    found = []
    for name, listing in functions.items():
        if not any(namespace in name for namespace in allowed) and (match := instructions.search(listing)):
            found.append(f"{name}: {match.group().strip()}")
    return found


def test_wide_instructions_stay_in_their_namespaces(functions):
    assert offenders(functions, VEX, (AVX2, AVX512)) == []
    assert offenders(functions, EVEX, (AVX512,)) == []


def test_the_search_finds_wide_instructions(functions):
    assert any(AVX2 in found for found in offenders(functions, VEX, (AVX512,)))
    assert any(AVX512 in found for found in offenders(functions, EVEX, (AVX2,)))
