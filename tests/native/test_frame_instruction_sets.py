"""Attention over whole frames by the compiled CPU kernels, called directly, for each instruction set."""

from __future__ import annotations

import pytest
import torch

from attention_cases import random_qkv
from fourreal_kernels import native
from fourreal_kernels.data.threads import one_thread
from native_attention import FUSED, INSTRUCTION_SETS, check, check_gradients, check_tensors, forward
from op_numerics import assert_rms_close_as_pytorch, bitwise_equal, dtype_name

library = native.cpu_library()
pytestmark = pytest.mark.skipif(library is None, reason=native.why_missing("cpu"))

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
AXES = ("vn", "tn", "vn|tn", "n", "vtn")
# With one thread, what a union keeps between its two passes is held for so many (batch entries, heads) at a time:
PARTS = {
    "head by head": ((1, 2, 2, 260, 3, 256), torch.bfloat16),
    "two batch entries of three, in the backward": ((3, 2, 2, 32, 3, 88), torch.float16),
    "two batch entries of three, in the forward": ((3, 2, 2, 16, 700, 8), torch.float32),
    "2048 heads of 2100": ((1, 2, 2, 16, 2100, 8), torch.float32),
}


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("axes", AXES)
def test_every_axes_row(axes, dtype, instruction_set):
    for shape in ((2, 3, 2, 7, 2, 40), (1, 2, 3, 37, 1, 64), (1, 2, 2, 101, 2, 24)):
        check(shape, axes, dtype, instruction_set, assert_rms_close_as_pytorch)
        check_gradients(shape, axes, dtype, instruction_set, assert_rms_close_as_pytorch)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("channels", (2, 7, 8, 16, 72, 128, 256))
def test_every_head_dim(channels, instruction_set):
    for axes in ("vn", "vn|tn"):
        shape = (1, 3, 2, 19, 2, channels)
        check(shape, axes, torch.float32, instruction_set, assert_rms_close_as_pytorch)
        check_gradients(shape, axes, torch.float32, instruction_set, assert_rms_close_as_pytorch)


@pytest.mark.parametrize("instruction_set", FUSED)
@pytest.mark.parametrize("axes", ("tn", "vn|tn"))
def test_scores_far_apart(axes, instruction_set):
    """Weights that no float tells from 0 beside those that are nearly 1, and maxima that rise from block to block and
    from pass to pass; whole numbers, whose products are exact."""
    q, k, v = random_qkv(1, 3, 3, 40, 2, 64)
    rising = torch.linspace(1, 20, 9).view(1, 3, 3, 1, 1, 1)
    for growth in (rising, rising.flip(1, 2)):
        check_tensors((20 * q).round(), (growth * k).round(), v, axes, instruction_set, assert_rms_close_as_pytorch)


@pytest.mark.parametrize("case", PARTS)
def test_unions_a_part_at_a_time(case):
    shape, dtype = PARTS[case]
    with one_thread():
        check(shape, "vn|tn", dtype, INSTRUCTION_SETS[0], assert_rms_close_as_pytorch)
        check_gradients(shape, "vn|tn", dtype, INSTRUCTION_SETS[0], assert_rms_close_as_pytorch)


@pytest.mark.parametrize("axes, shape", [("tn", (2, 1, 3, 9, 2, 24)), ("vn", (2, 3, 1, 9, 2, 24))])
def test_a_union_of_one_view_or_timestep_is_the_other_row(axes, shape):
    q, k, v = random_qkv(*shape)
    for union in ("vn|tn", "tn|vn"):
        found = forward(q, k, v, union, INSTRUCTION_SETS[0])
        expected = forward(q, k, v, axes, INSTRUCTION_SETS[0])
        assert all(bitwise_equal(a, b) for a, b in zip(found, expected, strict=True))
