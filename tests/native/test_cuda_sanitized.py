"""The tests of the CUDA kernels on the host once more, built with AddressSanitizer and UndefinedBehaviorSanitizer.

Nothing outside a tensor, shared memory or a local array is read or written, and no behaviour is undefined.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda_on_host import run_tests_sanitized

HERE = Path(__file__).parent
TESTS = sorted(str(path) for path in HERE.glob("test_*_cuda.py"))
# Of every kernel, forward and backward: sizes that no tile and no 16-byte access divides, strides, several blocks.
CHOSEN = (
    "test_any_head_dim", "test_writes_into_out_and_nothing_else", "test_gradients_are_written_exactly",
    "test_sequences_that_do_not_fit and bfloat16",
    "test_odd_head_dim_without_rotation", "test_any_number_of_heads", "test_parts", "test_gradients_of_parts",
    "test_strides_of_angles", "test_in_place_has_the_bits_of_the_functional_form_and_stays_inside",
    "test_gradients_of_options", "test_strided_gradients", "test_strided_parameters", "test_several_tiles_and_blocks",
    "test_many_chunks_of_dense_rows", "test_wide_rows",
)

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


def test_every_kernel():
    """`make test-all` runs everything: see :func:`test_everything`."""
    done = run_tests_sanitized(*TESTS, "-rp", "-k", f"({' or '.join(CHOSEN)}) and not gpu")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    for name in CHOSEN:
        assert f"::{name.split()[0]}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", TESTS, ids=lambda path: Path(path).name)
def test_everything(path):
    done = run_tests_sanitized(path)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:] + done.stderr[-4000:]


def test_an_access_beyond_a_tensor_is_caught(tmp_path):
    test = tmp_path / "test_read_beyond.py"
    test.write_text(READ_BEYOND)
    done = run_tests_sanitized("-c", str(HERE.parents[1] / "pyproject.toml"), "--rootdir", str(tmp_path), str(test))
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stdout + done.stderr
    assert "csrc/cuda" in done.stderr
