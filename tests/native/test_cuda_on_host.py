"""The shim that runs CUDA kernels on the host: what it offers works, what a GPU forbids is reported."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cuda_on_host import SHIM, host_program, sanitized_environment

OFFERED = ("sums", "shuffles", "votes", "poison", "both orders", "refused launches", "within")
MISUSES = {
    "return before a barrier": "63 of 64 threads reach the barrier",
    "two barriers": "a barrier in divergent code",
    "half a warp": "lanes 0xffff0000 are missing in a shuffle",
    "short warp": "lanes 0xffff0000 are missing in a shuffle",
    "outside of the mask": "thread 16 is not in the mask 0x0000ffff of a shuffle",
    "shuffle against barrier": "lanes 0xffff0000 are missing in a shuffle",
}
OVERFLOWS = {
    "beyond dynamic": "heap-buffer-overflow",
    "beyond static": "global-buffer-overflow",
    "beyond local": "stack-buffer-overflow",
}


@pytest.fixture(scope="module")
def plain() -> Path:
    return host_program(SHIM / "checks.cu")


@pytest.fixture(scope="module")
def sanitized() -> Path:
    sanitized_environment()
    return host_program(SHIM / "checks.cu", sanitized=True)


def run(program: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), name], capture_output=True, text=True)


@pytest.mark.parametrize("form", ["plain", "sanitized"])
@pytest.mark.parametrize("name", OFFERED)
def test_offered(request, form, name):
    done = run(request.getfixturevalue(form), name)
    assert (done.returncode, done.stdout) == (0, "passed\n"), done.stderr


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_aborts(plain, name):
    done = run(plain, name)
    assert done.returncode < 0 and done.stdout == ""
    assert MISUSES[name] in done.stderr


@pytest.mark.parametrize("name", OVERFLOWS)
def test_write_beyond_shared_memory_is_caught(sanitized, name):
    done = run(sanitized, name)
    assert done.returncode != 0 and done.stdout == ""
    assert f"AddressSanitizer: {OVERFLOWS[name]}" in done.stderr, done.stderr
