"""Pointwise attention by the compiled CPU kernels, called directly, for each instruction set."""

from __future__ import annotations

import pytest
import torch

from attention_cases import random_qkv
from fourreal_kernels import native
from native_attention import FUSED, INSTRUCTION_SETS, check, check_gradients, check_tensors, forward
from op_numerics import dtype_name

library = native.cpu_library()
pytestmark = pytest.mark.skipif(library is None, reason=native.why_missing("cpu"))

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Around the sizes of groups of keys (2, 4 and 8), of tiles of queries, and past the longest short sequence.
ENTRIES = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 21, 24, 25, 31, 32, 33)
UNIONS = ((8, 8), (2, 3), (3, 2), (5, 7), (7, 5), (9, 4), (4, 9), (16, 3), (15, 16), (17, 2), (2, 17))
CHANNELS = (2, 7, 8, 16, 24, 40, 64, 72, 128)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("entries", ENTRIES)
def test_every_number_of_entries(entries, dtype, instruction_set):
    check((1, entries, 2, 3, 2, 24), "v", dtype, instruction_set)
    check((2, 1, entries, 1, 3, 64), "t", dtype, instruction_set)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("views, times", [(8, 3), (3, 5), (16, 2), (4, 4)])
def test_every_head_dim(views, times, channels, instruction_set):
    for axes in ("v", "t", "vt"):
        check((1, views, times, 2, 2, channels), axes, torch.float32, instruction_set)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("views, times", UNIONS)
def test_union(views, times, dtype, instruction_set):
    for channels in (24, 64):
        check((2, views, times, 1, 3, channels), "v|t", dtype, instruction_set)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("entries", ENTRIES)
def test_gradients_of_every_number_of_entries(entries, dtype, instruction_set):
    check_gradients((1, entries, 2, 3, 2, 40), "v", dtype, instruction_set)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("views, times", [(8, 3), (3, 5)])
def test_gradients_of_every_head_dim(views, times, channels, instruction_set):
    for axes in ("v", "t", "vt"):
        check_gradients((1, views, times, 2, 2, channels), axes, torch.float32, instruction_set)


@pytest.mark.parametrize("instruction_set", FUSED)
@pytest.mark.parametrize("entries", (5, 8, 16, 21))
def test_scores_far_apart(entries, instruction_set):
    """Weights that no float tells from 0 beside those that are nearly 1; whole numbers, whose products are exact."""
    q, k, v = random_qkv(1, entries, 2, 4, 2, 64)
    check_tensors((20 * q).round(), (20 * k).round(), v, "v", instruction_set)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("entries", (7, 8, 16, 21))
def test_the_log_sum_exp_changes_nothing(entries, instruction_set):
    q, k, v = random_qkv(1, entries, 3, 5, 2, 64)
    with_lse, _ = forward(q, k, v, "v", instruction_set)
    without, _ = forward(q, k, v, "v", instruction_set, keep_lse=False)
    assert torch.equal(with_lse, without)


# Heads and channels whose rows are whole cache lines, fill them by 2, 4 or 8 heads, and do not fill them.
LINES = [(2, 64, torch.float32), (2, 40, torch.float32), (4, 24, torch.float32), (4, 20, torch.float32),
         (4, 40, torch.bfloat16), (8, 36, torch.float16), (3, 40, torch.float32), (6, 20, torch.float32)]


def large_qkv(heads, channels, dtype, entries):
    """Their output is beyond the size up to which outputs are left in the caches (4 MiB), by a few tokens."""
    tokens = (4 << 20) // (entries * heads * channels * dtype.itemsize) + 3
    return [torch.randn(1, entries, 1, tokens, heads, channels).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("entries", (5, 8))
@pytest.mark.parametrize("heads, channels, dtype", LINES)
def test_outputs_written_past_the_caches_are_those_of_small_calls(heads, channels, dtype, entries, instruction_set):
    q, k, v = large_qkv(heads, channels, dtype, entries)
    large, lse = forward(q, k, v, "v", instruction_set)
    for tokens in (slice(None, 40), slice(-40, None)):
        small, small_lse = forward(*(x[:, :, :, tokens].contiguous() for x in (q, k, v)), "v", instruction_set)
        assert torch.equal(large[:, :, :, tokens], small) and torch.equal(lse[:, :, :, tokens], small_lse)
    assert large.isfinite().all()


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("offset", (0, 64, 8))
@pytest.mark.parametrize("head_gap", (0, 8))
def test_what_lies_beside_outputs_written_past_the_caches_stays(head_gap, offset, instruction_set):
    """At whole lines and elsewhere, with heads side by side and apart."""
    q, k, v = large_qkv(2, 40, torch.float32, 8)
    expected, _ = forward(q, k, v, "v", instruction_set)
    token = 2 * (40 + head_gap)
    strides = (0, (q.shape[3] + 1) * token + 64, 0, token, 40 + head_gap, 1)
    memory = torch.full((8 * strides[1] + 128,), float("nan"))
    out = memory.as_strided(q.shape, strides, offset)
    lse = torch.empty(q.shape[:-1])
    tensors = q, k, v, out, lse
    library.axis_attention_forward("float32", q.shape, "v", 40**-0.5, tensors, instruction_set=instruction_set)
    assert torch.equal(out, expected)
    outside = torch.ones_like(memory, dtype=torch.bool)
    outside.as_strided(q.shape, strides, offset).fill_(False)
    assert memory[outside].isnan().all()
