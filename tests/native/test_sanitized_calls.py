"""The calls that the slow tests watch by AddressSanitizer are those of every function of the library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fourreal_kernels import native

CALLS = Path(__file__).with_name("sanitized_calls.py")


@pytest.mark.skipif(native.cpu_library() is None, reason=native.why_missing("cpu"))
def test_every_function_is_called():
    module = native.cpu_library().__file__
    done = subprocess.run([sys.executable, CALLS, module, "--unsanitized"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
