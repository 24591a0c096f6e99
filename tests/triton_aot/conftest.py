"""The Triton kernels compiled without a GPU; not under the interpreter, which replaces the compiler."""

from __future__ import annotations

import pytest

from fourreal_kernels.ops.triton_support import interpreting

if interpreting():
    pytest.exit("tests/triton_aot compiles the kernels: run it without TRITON_INTERPRET",
                returncode=pytest.ExitCode.USAGE_ERROR)
