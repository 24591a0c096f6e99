"""Triton kernels around the GEMM of the dense exchange: rows into its operand, and its product into the streams.

A chunk is ``rows`` rows, from ``first_row``, of each of some batch entries from ``first_sample``. Operand and product
are contiguous, one row of the chunk after the other. Arithmetic is in fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_rows import per_channel, row_elements, stride_names

_CHUNK = ("times", "tokens", "first_sample", "first_row", "rows", "row_blocks", "channel_blocks")
STAGE_INTEGERS = (*_CHUNK, *stride_names("view", "time", "view_branch", "time_branch"))
FINISH_INTEGERS = (*_CHUNK, *stride_names("view", "time", "out_view", "out_time"))


@triton.jit
def residual(x, branch_ptr, at, branch_gate_ptr, b, c, inside, owned, IN: tl.constexpr, C: tl.constexpr):
    """x + branch_gate * branch, or x where there is no branch."""
    if branch_ptr is not None:
        branch = tl.load(branch_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x += branch * per_channel(branch_gate_ptr, (2 * b + IN) * C + c, owned, 1.0)
    return x


@triton.jit(do_not_specialize=STAGE_INTEGERS)
def stage_kernel(
    view_ptr, time_ptr, view_branch_ptr, time_branch_ptr, branch_gate_ptr, scale_ptr, staged_ptr,
    times, tokens, first_sample, first_row, rows, row_blocks, channel_blocks,
    view_b, view_v, view_t, view_n, time_b, time_v, time_t, time_n,
    view_branch_b, view_branch_v, view_branch_t, view_branch_n,
    time_branch_b, time_branch_v, time_branch_t, time_branch_n,
    C: tl.constexpr, ADD: tl.constexpr, UNIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Both streams, scaled, side by side; with ADD their sum."""
    block = tl.program_id(0) // channel_blocks
    sample = block // row_blocks
    b = first_sample + sample
    local = block % row_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    row = first_row + local
    c = tl.program_id(0) % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    owned = c < C
    inside = (local < rows)[:, None] & owned[None, :]
    at = row_elements(b, row, c, times, tokens, view_b, view_v, view_t, view_n, UNIT)
    view = tl.load(view_ptr + at, mask=inside, other=0.0).to(tl.float32)
    at = row_elements(b, row, c, times, tokens, time_b, time_v, time_t, time_n, UNIT)
    time = tl.load(time_ptr + at, mask=inside, other=0.0).to(tl.float32)
    at = row_elements(
        b, row, c, times, tokens, view_branch_b, view_branch_v, view_branch_t, view_branch_n, UNIT)
    view = residual(view, view_branch_ptr, at, branch_gate_ptr, b, c, inside, owned, 0, C)
    at = row_elements(
        b, row, c, times, tokens, time_branch_b, time_branch_v, time_branch_t, time_branch_n, UNIT)
    time = residual(time, time_branch_ptr, at, branch_gate_ptr, b, c, inside, owned, 1, C)
    chunk_row = (sample.to(tl.int64) * rows + local)[:, None]
    if ADD:
        tl.store(staged_ptr + chunk_row * C + c[None, :], (view + time).to(staged_ptr.dtype.element_ty), mask=inside)
    else:
        view *= per_channel(scale_ptr, 2 * b * C + c, owned, 1.0)
        time *= per_channel(scale_ptr, (2 * b + 1) * C + c, owned, 1.0)
        at = chunk_row * (2 * C) + c[None, :]
        tl.store(staged_ptr + at, view.to(staged_ptr.dtype.element_ty), mask=inside)
        tl.store(staged_ptr + at + C, time.to(staged_ptr.dtype.element_ty), mask=inside)


@triton.jit
def exchanged(mixed_ptr, at, bias_ptr, gate_ptr, b, c, inside, owned, OUT: tl.constexpr, OUTS: tl.constexpr,
              C: tl.constexpr):
    """gate * (product + bias) of output OUT."""
    mixed = tl.load(mixed_ptr + at + OUT * C, mask=inside, other=0.0).to(tl.float32)
    mixed += per_channel(bias_ptr, OUT * C + c, owned, 0.0)
    return mixed * per_channel(gate_ptr, (OUTS * b + OUT) * C + c, owned, 1.0)


@triton.jit(do_not_specialize=FINISH_INTEGERS)
def finish_kernel(
    mixed_ptr, view_ptr, time_ptr, out_view_ptr, out_time_ptr, bias_ptr, gate_ptr,
    times, tokens, first_sample, first_row, rows, row_blocks, channel_blocks,
    view_b, view_v, view_t, view_n, time_b, time_v, time_t, time_n,
    out_view_b, out_view_v, out_view_t, out_view_n, out_time_b, out_time_v, out_time_t, out_time_n,
    C: tl.constexpr, HARD: tl.constexpr, RESIDUAL: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Into the streams: one product for both (HARD), or one for each, added to it with RESIDUAL."""
    OUTS: tl.constexpr = 1 if HARD else 2
    block = tl.program_id(0) // channel_blocks
    sample = block // row_blocks
    b = first_sample + sample
    local = block % row_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    row = first_row + local
    c = tl.program_id(0) % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    owned = c < C
    inside = (local < rows)[:, None] & owned[None, :]
    mixed_at = (sample.to(tl.int64) * rows + local)[:, None] * (OUTS * C) + c[None, :]
    to_view = exchanged(mixed_ptr, mixed_at, bias_ptr, gate_ptr, b, c, inside, owned, 0, OUTS, C)
    to_time = to_view
    if not HARD:
        to_time = exchanged(mixed_ptr, mixed_at, bias_ptr, gate_ptr, b, c, inside, owned, 1, OUTS, C)
    if RESIDUAL:
        at = row_elements(b, row, c, times, tokens, view_b, view_v, view_t, view_n, UNIT)
        to_view += tl.load(view_ptr + at, mask=inside, other=0.0).to(tl.float32)
        at = row_elements(b, row, c, times, tokens, time_b, time_v, time_t, time_n, UNIT)
        to_time += tl.load(time_ptr + at, mask=inside, other=0.0).to(tl.float32)
    at = row_elements(b, row, c, times, tokens, out_view_b, out_view_v, out_view_t, out_view_n, UNIT)
    tl.store(out_view_ptr + at, to_view.to(out_view_ptr.dtype.element_ty), mask=inside)
    at = row_elements(b, row, c, times, tokens, out_time_b, out_time_v, out_time_t, out_time_n, UNIT)
    tl.store(out_time_ptr + at, to_time.to(out_time_ptr.dtype.element_ty), mask=inside)
