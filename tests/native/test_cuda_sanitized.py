"""The tests of the CUDA kernels on the host once more, built with AddressSanitizer and UndefinedBehaviorSanitizer.

Nothing outside a tensor, shared memory or a local array is read or written, and no behaviour is undefined.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda_on_host import run_tests_sanitized

HERE = Path(__file__).parent
TESTS = sorted(path.name for path in HERE.glob("test_*_cuda.py"))

pytestmark = pytest.mark.slow

READ_BEYOND = """
import torch
from cuda_on_host import host_library
from exchange_cases import CUDA_SOURCES, exchange, make_parameters

def test_read_beyond():
    view, time, *outs = (torch.randn(1, 1, 1, 3, 8) for _ in range(4))
    parameters = make_parameters(1, 8, torch.float32, "cpu")
    parameters.bias = torch.randn(7)
    exchange(host_library(CUDA_SOURCES), view, time, *outs, parameters)
"""


@pytest.mark.parametrize("name", TESTS)
def test_kernels(name):
    done = run_tests_sanitized(str(HERE / name))
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:] + done.stderr[-4000:]


def test_an_access_beyond_a_tensor_is_caught(tmp_path):
    test = tmp_path / "test_read_beyond.py"
    test.write_text(READ_BEYOND)
    done = run_tests_sanitized("-c", str(HERE.parents[1] / "pyproject.toml"), "--rootdir", str(tmp_path), str(test))
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stdout + done.stderr
    assert "csrc/cuda" in done.stderr
