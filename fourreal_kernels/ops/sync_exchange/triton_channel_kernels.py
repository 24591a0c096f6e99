"""Triton kernels of the per-channel exchange: both streams in one pass, forward and backward, in fp32 arithmetic."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_rows import mix, row_elements, stream_factor, stride_names

_GRID = ("times", "tokens", "rows", "row_blocks", "channel_blocks")
FORWARD_INTEGERS = (*_GRID, *stride_names("view", "time", "out_view", "out_time"))
BACKWARD_INTEGERS = (*_GRID, *stride_names("grad_view", "grad_time", "view", "time", "d_view", "d_time"))


@triton.jit(do_not_specialize=FORWARD_INTEGERS)
def forward_kernel(
    view_ptr, time_ptr, out_view_ptr, out_time_ptr, weight_ptr, bias_ptr, scale_ptr, gate_ptr,
    times, tokens, rows, row_blocks, channel_blocks,
    view_b, view_v, view_t, view_n, time_b, time_v, time_t, time_n,
    out_view_b, out_view_v, out_view_t, out_view_n, out_time_b, out_time_v, out_time_t, out_time_n,
    C: tl.constexpr, HARD: tl.constexpr, UNIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """A program takes BLOCK_M rows of one batch entry and BLOCK_C channels."""
    block = tl.program_id(0) // channel_blocks
    b = block // row_blocks
    row = block % row_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(0) % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    owned = c < C
    inside = (row < rows)[:, None] & owned[None, :]
    at = row_elements(b, row, c, times, tokens, view_b, view_v, view_t, view_n, UNIT)
    view = tl.load(view_ptr + at, mask=inside, other=0.0).to(tl.float32)
    at = row_elements(b, row, c, times, tokens, time_b, time_v, time_t, time_n, UNIT)
    time = tl.load(time_ptr + at, mask=inside, other=0.0).to(tl.float32)
    to_view = mix(view, time, weight_ptr, bias_ptr, scale_ptr, gate_ptr, b, c, owned, 0, HARD, C)
    if HARD:
        to_time = to_view
    else:
        to_time = time + mix(view, time, weight_ptr, bias_ptr, scale_ptr, gate_ptr, b, c, owned, 1, HARD, C)
        to_view = view + to_view
    at = row_elements(b, row, c, times, tokens, out_view_b, out_view_v, out_view_t, out_view_n, UNIT)
    tl.store(out_view_ptr + at, to_view.to(out_view_ptr.dtype.element_ty), mask=inside)
    at = row_elements(b, row, c, times, tokens, out_time_b, out_time_v, out_time_t, out_time_n, UNIT)
    tl.store(out_time_ptr + at, to_time.to(out_time_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=BACKWARD_INTEGERS)
def backward_kernel(
    grad_view_ptr, grad_time_ptr, view_ptr, time_ptr, d_view_ptr, d_time_ptr, weight_ptr, scale_ptr, gate_ptr,
    partial_ptr, times, tokens, rows, row_blocks, channel_blocks,
    grad_view_b, grad_view_v, grad_view_t, grad_view_n, grad_time_b, grad_time_v, grad_time_t, grad_time_n,
    view_b, view_v, view_t, view_n, time_b, time_v, time_t, time_n,
    d_view_b, d_view_v, d_view_t, d_view_n, d_time_b, d_time_v, d_time_t, d_time_n,
    C: tl.constexpr, HARD: tl.constexpr, UNIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
    STEPS: tl.constexpr,
):
    """A program takes STEPS blocks of rows and leaves sums over them in ``partial_ptr[b, row block, list, C]``.

    The lists are g of each output, then g x_view and g x_time of each output; the caller adds the row blocks in a
    fixed order, so that results repeat bit for bit.
    """
    OUTS: tl.constexpr = 1 if HARD else 2
    block = tl.program_id(0) // channel_blocks
    b = block // row_blocks
    c = tl.program_id(0) % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    owned = c < C
    view_to_view = stream_factor(weight_ptr, scale_ptr, gate_ptr, b, c, owned, 0, 0, OUTS, C)
    time_to_view = stream_factor(weight_ptr, scale_ptr, gate_ptr, b, c, owned, 0, 1, OUTS, C)
    view_to_time = view_to_view
    time_to_time = time_to_view
    if not HARD:
        view_to_time = stream_factor(weight_ptr, scale_ptr, gate_ptr, b, c, owned, 1, 0, OUTS, C)
        time_to_time = stream_factor(weight_ptr, scale_ptr, gate_ptr, b, c, owned, 1, 1, OUTS, C)
    sum_0 = tl.zeros([BLOCK_C], tl.float32)
    sum_0_view = tl.zeros([BLOCK_C], tl.float32)
    sum_0_time = tl.zeros([BLOCK_C], tl.float32)
    sum_1 = tl.zeros([BLOCK_C], tl.float32)
    sum_1_view = tl.zeros([BLOCK_C], tl.float32)
    sum_1_time = tl.zeros([BLOCK_C], tl.float32)
    for step in range(STEPS):
        row = (block % row_blocks * STEPS + step) * BLOCK_M + tl.arange(0, BLOCK_M)
        inside = (row < rows)[:, None] & owned[None, :]
        at = row_elements(b, row, c, times, tokens, grad_view_b, grad_view_v, grad_view_t, grad_view_n, UNIT)
        grad_view = tl.load(grad_view_ptr + at, mask=inside, other=0.0).to(tl.float32)
        at = row_elements(b, row, c, times, tokens, grad_time_b, grad_time_v, grad_time_t, grad_time_n, UNIT)
        grad_time = tl.load(grad_time_ptr + at, mask=inside, other=0.0).to(tl.float32)
        at = row_elements(b, row, c, times, tokens, view_b, view_v, view_t, view_n, UNIT)
        view = tl.load(view_ptr + at, mask=inside, other=0.0).to(tl.float32)
        at = row_elements(b, row, c, times, tokens, time_b, time_v, time_t, time_n, UNIT)
        time = tl.load(time_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if HARD:
            grad_0 = grad_view + grad_time
            d_view = grad_0 * view_to_view
            d_time = grad_0 * time_to_view
        else:
            grad_0 = grad_view
            d_view = grad_view + grad_view * view_to_view + grad_time * view_to_time
            d_time = grad_time + grad_view * time_to_view + grad_time * time_to_time
            sum_1 += tl.sum(grad_time, axis=0)
            sum_1_view += tl.sum(grad_time * view, axis=0)
            sum_1_time += tl.sum(grad_time * time, axis=0)
        sum_0 += tl.sum(grad_0, axis=0)
        sum_0_view += tl.sum(grad_0 * view, axis=0)
        sum_0_time += tl.sum(grad_0 * time, axis=0)
        at = row_elements(b, row, c, times, tokens, d_view_b, d_view_v, d_view_t, d_view_n, UNIT)
        tl.store(d_view_ptr + at, d_view.to(d_view_ptr.dtype.element_ty), mask=inside)
        at = row_elements(b, row, c, times, tokens, d_time_b, d_time_v, d_time_t, d_time_n, UNIT)
        tl.store(d_time_ptr + at, d_time.to(d_time_ptr.dtype.element_ty), mask=inside)
    partial = partial_ptr + block.to(tl.int64) * (3 * OUTS * C) + c
    tl.store(partial, sum_0, mask=owned)
    products = partial + OUTS * C
    tl.store(products, sum_0_view, mask=owned)
    tl.store(products + C, sum_0_time, mask=owned)
    if not HARD:
        tl.store(partial + C, sum_1, mask=owned)
        tl.store(products + 2 * C, sum_1_view, mask=owned)
        tl.store(products + 3 * C, sum_1_time, mask=owned)
