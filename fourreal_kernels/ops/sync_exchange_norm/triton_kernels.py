"""Triton kernel of the fused exchange: residual, exchange, LayerNorm and modulation of whole rows of both streams.

A program takes STEPS blocks of BLOCK_M rows of one batch entry. A row stays in registers from its load to its stores;
parameters are read again for each block, from the L1 cache. With ``mixed_ptr`` the exchange is the product of a GEMM
over a chunk of rows, as in the dense exchange, else it is computed from per-channel weights. Arithmetic is in fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..sync_exchange.triton_dense_kernels import exchanged, residual
from ..sync_exchange.triton_rows import mix, per_channel, row_elements, stride_names

STREAMS = ("view", "time", "view_branch", "time_branch", "out_view", "out_time", "view_norm", "time_norm")
INTEGERS = ("times", "tokens", "first_sample", "first_row", "rows", "row_blocks", *stride_names(*STREAMS))


@triton.jit
def _modulated(x, norm_scale_ptr, norm_shift_ptr, b, c, owned, eps, IN: tl.constexpr, C: tl.constexpr):
    """LayerNorm(x) * (1 + scale) + shift over channels; x is 0 outside the owned ones."""
    centred = tl.where(owned[None, :], x - (tl.sum(x, axis=1) / C)[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, axis=1) / C + eps)
    at = (2 * b + IN) * C + c
    factor = 1.0 + per_channel(norm_scale_ptr, at, owned, 0.0)
    return centred * inverse[:, None] * factor + per_channel(norm_shift_ptr, at, owned, 0.0)


@triton.jit(do_not_specialize=INTEGERS)
def forward_kernel(
    view_ptr, time_ptr, view_branch_ptr, time_branch_ptr, out_view_ptr, out_time_ptr, view_norm_ptr, time_norm_ptr,
    mixed_ptr, weight_ptr, bias_ptr, scale_ptr, gate_ptr, branch_gate_ptr, norm_scale_ptr, norm_shift_ptr, eps,
    times, tokens, first_sample, first_row, rows, row_blocks,
    view_b, view_v, view_t, view_n, time_b, time_v, time_t, time_n,
    view_branch_b, view_branch_v, view_branch_t, view_branch_n,
    time_branch_b, time_branch_v, time_branch_t, time_branch_n,
    out_view_b, out_view_v, out_view_t, out_view_n, out_time_b, out_time_v, out_time_t, out_time_n,
    view_norm_b, view_norm_v, view_norm_t, view_norm_n, time_norm_b, time_norm_v, time_norm_t, time_norm_n,
    C: tl.constexpr, HARD: tl.constexpr, UNIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
    STEPS: tl.constexpr,
):
    OUTS: tl.constexpr = 1 if HARD else 2
    sample = tl.program_id(0) // row_blocks
    b = first_sample + sample
    c = tl.arange(0, BLOCK_C)
    owned = c < C
    for step in range(STEPS):
        local = (tl.program_id(0) % row_blocks * STEPS + step) * BLOCK_M + tl.arange(0, BLOCK_M)
        row = first_row + local
        inside = (local < rows)[:, None] & owned[None, :]
        at = row_elements(b, row, c, times, tokens, view_b, view_v, view_t, view_n, UNIT)
        view = tl.load(view_ptr + at, mask=inside, other=0.0).to(tl.float32)
        at = row_elements(b, row, c, times, tokens, time_b, time_v, time_t, time_n, UNIT)
        time = tl.load(time_ptr + at, mask=inside, other=0.0).to(tl.float32)
        at = row_elements(b, row, c, times, tokens, view_branch_b, view_branch_v, view_branch_t, view_branch_n, UNIT)
        view = residual(view, view_branch_ptr, at, branch_gate_ptr, b, c, inside, owned, 0, C)
        at = row_elements(b, row, c, times, tokens, time_branch_b, time_branch_v, time_branch_t, time_branch_n, UNIT)
        time = residual(time, time_branch_ptr, at, branch_gate_ptr, b, c, inside, owned, 1, C)
        if mixed_ptr is None:
            to_view = mix(view, time, weight_ptr, bias_ptr, scale_ptr, gate_ptr, b, c, owned, 0, HARD, C)
            to_time = to_view
            if not HARD:
                to_time = mix(view, time, weight_ptr, bias_ptr, scale_ptr, gate_ptr, b, c, owned, 1, HARD, C)
        else:
            at = (sample.to(tl.int64) * rows + local)[:, None] * (OUTS * C) + c[None, :]
            to_view = exchanged(mixed_ptr, at, bias_ptr, gate_ptr, b, c, inside, owned, 0, OUTS, C)
            to_time = to_view
            if not HARD:
                to_time = exchanged(mixed_ptr, at, bias_ptr, gate_ptr, b, c, inside, owned, 1, OUTS, C)
        if not HARD:
            to_view += view
            to_time += time
        view_norm = _modulated(to_view, norm_scale_ptr, norm_shift_ptr, b, c, owned, eps, 0, C)
        at = row_elements(b, row, c, times, tokens, out_view_b, out_view_v, out_view_t, out_view_n, UNIT)
        tl.store(out_view_ptr + at, to_view.to(out_view_ptr.dtype.element_ty), mask=inside)
        at = row_elements(b, row, c, times, tokens, view_norm_b, view_norm_v, view_norm_t, view_norm_n, UNIT)
        tl.store(view_norm_ptr + at, view_norm.to(view_norm_ptr.dtype.element_ty), mask=inside)
        time_norm = _modulated(to_time, norm_scale_ptr, norm_shift_ptr, b, c, owned, eps, 1, C)
        at = row_elements(b, row, c, times, tokens, out_time_b, out_time_v, out_time_t, out_time_n, UNIT)
        tl.store(out_time_ptr + at, to_time.to(out_time_ptr.dtype.element_ty), mask=inside)
        at = row_elements(b, row, c, times, tokens, time_norm_b, time_norm_v, time_norm_t, time_norm_n, UNIT)
        tl.store(time_norm_ptr + at, time_norm.to(time_norm_ptr.dtype.element_ty), mask=inside)
