"""Triton kernels of the pointwise axes: every byte of q, k, v is read once, every byte of the results written once.

A program takes all entries of LINES neighbouring positions (token and head): one tile of ROWS = 64 rows, LINES the
largest power of two that fits. Its scores are one matrix product in which only pairs of rows of one sequence count.
That is 32 FLOP per byte of q, k, v and out in 16 bits whatever the length, 140 of the 990 TFLOP/s of an H100 or H200
at 4.3 TB/s; sums over the head dim on the other units would take 128 instructions per row and warp from 8 entries on
(products, conversions, shuffles), more than the memory leaves time for from 12 entries on. For ``"v|t"`` the tile holds
the whole grid V x T of a position, of which a row sees its view and its timestep: each byte is still read once.
"""

from __future__ import annotations

import triton
import triton.language as tl

_GRID = ("outer_entries", "inner_entries", "outer", "positions", "heads", "blocks")
# b: batch, o: the axis that is neither attended over nor tokens, n, h, and the two axes of the entries
DIMS = "bonhij"


def stride_names(*tensors: str) -> tuple[str, ...]:
    return tuple(f"{name}_{dim}" for name in tensors for dim in DIMS)


FORWARD_INTEGERS = (*_GRID, *stride_names("q", "k", "v", "out", "lse"))
BACKWARD_INTEGERS = (
    *_GRID, *stride_names("grad_out", "grad_lse", "q", "k", "v", "out", "lse", "dq", "dk", "dv")
)


@triton.jit
def _row_offsets(b, o, n, h, i, j, stride_b, stride_o, stride_n, stride_h, stride_i, stride_j):
    slab = b.to(tl.int64) * stride_b + o.to(tl.int64) * stride_o
    offset = slab + n.to(tl.int64) * stride_n + h.to(tl.int64) * stride_h
    return offset + i.to(tl.int64) * stride_i + j.to(tl.int64) * stride_j


@triton.jit
def _tile(pointer, offsets, inside, d, UNIT: tl.constexpr):
    return tl.load(pointer + (offsets * UNIT)[:, None] + d[None, :], mask=inside, other=0.0)


@triton.jit
def _write(pointer, offsets, inside, d, values, UNIT: tl.constexpr):
    at = (offsets * UNIT)[:, None] + d[None, :]
    tl.store(pointer + at, values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _pairs(outer_entries, inner_entries, ROWS: tl.constexpr, LINES: tl.constexpr, INNER: tl.constexpr,
           UNION: tl.constexpr):
    """``(ROWS, ROWS)``: which rows see each other. Rows that stand for nothing see themselves; symmetric."""
    row = tl.arange(0, ROWS)
    i, j = row // (LINES * INNER), row // LINES % INNER
    present = (i < outer_entries) & (j < inner_entries)
    # a row that stands for nothing is a sequence of its own
    sequence = tl.where(present, row % LINES, ROWS + row)
    seen = sequence[:, None] == sequence[None, :]
    if UNION:
        seen &= (i[:, None] == i[None, :]) | (j[:, None] == j[None, :])
    return seen


@triton.jit
def _weighted(weights, x, outer_entries, inner_entries, ROWS: tl.constexpr, LINES: tl.constexpr,
              INNER: tl.constexpr, UNION: tl.constexpr):
    """weights @ x, where what is not finite in a row of ``x`` makes NaN of that channel in the rows that see it only.

    The weights are 0 for pairs that do not see each other, but 0 times infinity is NaN.
    """
    weights = weights.to(x.dtype)
    wide = x.to(tl.float32)
    if tl.sum(tl.sum(wide * 0.0, axis=1), axis=0) == 0.0:
        result = tl.dot(weights, x)
    else:
        finite = tl.abs(wide) < float("inf")
        seen = _pairs(outer_entries, inner_entries, ROWS, LINES, INNER, UNION)
        reached = tl.dot(seen.to(tl.float16), 1.0 - finite.to(tl.float16))
        result = tl.dot(weights, tl.where(finite, wide, 0.0).to(x.dtype))
        result = tl.where(reached > 0, float("nan"), result)
    return result


@triton.jit
def _finite(x):
    """``x`` with 0 for what is not finite: the weights of pairs that do not see each other are 0, 0 * inf is NaN."""
    return tl.where(tl.abs(x.to(tl.float32)) < float("inf"), x, 0.0)


@triton.jit(do_not_specialize=FORWARD_INTEGERS)
def forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, scale,
    outer_entries, inner_entries, outer, positions, heads, blocks,
    q_b, q_o, q_n, q_h, q_i, q_j, k_b, k_o, k_n, k_h, k_i, k_j, v_b, v_o, v_n, v_h, v_i, v_j,
    out_b, out_o, out_n, out_h, out_i, out_j, lse_b, lse_o, lse_n, lse_h, lse_i, lse_j,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, LINES: tl.constexpr, INNER: tl.constexpr,
    UNIT: tl.constexpr, UNION: tl.constexpr,
):
    """Row r of the tile is of position r % LINES, so that neighbours in memory are neighbours; then j, then i."""
    row = tl.arange(0, ROWS)
    slab = tl.program_id(0) // blocks
    position = tl.program_id(0) % blocks * LINES + row % LINES
    o, b = slab % outer, slab // outer
    n, h = position // heads, position % heads
    i, j = row // (LINES * INNER), row // LINES % INNER
    d = tl.arange(0, BLOCK_D)
    valid = (position < positions) & (i < outer_entries) & (j < inner_entries)
    inside = valid[:, None] & (d < D)[None, :]
    q_at = _row_offsets(b, o, n, h, i, j, q_b, q_o, q_n, q_h, q_i, q_j)
    k_at = _row_offsets(b, o, n, h, i, j, k_b, k_o, k_n, k_h, k_i, k_j)
    v_at = _row_offsets(b, o, n, h, i, j, v_b, v_o, v_n, v_h, v_i, v_j)
    q = _tile(q_ptr, q_at, inside, d, UNIT)
    k = _tile(k_ptr, k_at, inside, d, UNIT)
    v = _tile(v_ptr, v_at, inside, d, UNIT)
    seen = _pairs(outer_entries, inner_entries, ROWS, LINES, INNER, UNION)
    scores = tl.dot(q, tl.trans(k)) * (scale * 1.4426950408889634)
    scores = tl.where(seen, scores, float("-inf"))
    largest = tl.max(scores, axis=1)
    weights = tl.exp2(scores - largest[:, None])
    total = tl.sum(weights, axis=1)
    out = _weighted(weights, v, outer_entries, inner_entries, ROWS, LINES, INNER, UNION) / total[:, None]
    out_at = _row_offsets(b, o, n, h, i, j, out_b, out_o, out_n, out_h, out_i, out_j)
    _write(out_ptr, out_at, inside, d, out, UNIT)
    lse_at = _row_offsets(b, o, n, h, i, j, lse_b, lse_o, lse_n, lse_h, lse_i, lse_j)
    tl.store(lse_ptr + lse_at, (largest + tl.log2(total)) * 0.6931471805599453, mask=valid)


@triton.jit(do_not_specialize=BACKWARD_INTEGERS)
def backward_kernel(
    grad_out_ptr, grad_lse_ptr, q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, dq_ptr, dk_ptr, dv_ptr, scale,
    outer_entries, inner_entries, outer, positions, heads, blocks,
    grad_out_b, grad_out_o, grad_out_n, grad_out_h, grad_out_i, grad_out_j,
    grad_lse_b, grad_lse_o, grad_lse_n, grad_lse_h, grad_lse_i, grad_lse_j,
    q_b, q_o, q_n, q_h, q_i, q_j, k_b, k_o, k_n, k_h, k_i, k_j, v_b, v_o, v_n, v_h, v_i, v_j,
    out_b, out_o, out_n, out_h, out_i, out_j, lse_b, lse_o, lse_n, lse_h, lse_i, lse_j,
    dq_b, dq_o, dq_n, dq_h, dq_i, dq_j, dk_b, dk_o, dk_n, dk_h, dk_i, dk_j, dv_b, dv_o, dv_n, dv_h, dv_i, dv_j,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, LINES: tl.constexpr, INNER: tl.constexpr,
    UNIT: tl.constexpr, UNION: tl.constexpr,
):
    """All of a sequence is in one program: its gradients are sums of a fixed order, written once.

    What is not finite in q or k makes NaN of the weights of the rows that see it, and of their gradients; what is not
    finite in a row of grad_out is made to do so. q and k are loaded again after the first store: from the L1 cache,
    while they would not fit the registers of an sm_80 in between.
    """
    row = tl.arange(0, ROWS)
    slab = tl.program_id(0) // blocks
    position = tl.program_id(0) % blocks * LINES + row % LINES
    o, b = slab % outer, slab // outer
    n, h = position // heads, position % heads
    i, j = row // (LINES * INNER), row // LINES % INNER
    d = tl.arange(0, BLOCK_D)
    valid = (position < positions) & (i < outer_entries) & (j < inner_entries)
    inside = valid[:, None] & (d < D)[None, :]
    q_at = _row_offsets(b, o, n, h, i, j, q_b, q_o, q_n, q_h, q_i, q_j)
    k_at = _row_offsets(b, o, n, h, i, j, k_b, k_o, k_n, k_h, k_i, k_j)
    at = _row_offsets(b, o, n, h, i, j, grad_out_b, grad_out_o, grad_out_n, grad_out_h,
                      grad_out_i, grad_out_j)
    grad_out = _tile(grad_out_ptr, at, inside, d, UNIT)
    at = _row_offsets(b, o, n, h, i, j, out_b, out_o, out_n, out_h, out_i, out_j)
    out = _tile(out_ptr, at, inside, d, UNIT)
    delta = tl.sum(grad_out.to(tl.float32) * out.to(tl.float32), axis=1)
    if grad_lse_ptr is not None:
        at = _row_offsets(b, o, n, h, i, j, grad_lse_b, grad_lse_o, grad_lse_n, grad_lse_h,
                          grad_lse_i, grad_lse_j)
        delta -= tl.load(grad_lse_ptr + at, mask=valid, other=0.0).to(tl.float32)
    at = _row_offsets(b, o, n, h, i, j, lse_b, lse_o, lse_n, lse_h, lse_i, lse_j)
    lse = tl.load(lse_ptr + at, mask=valid, other=0.0) * 1.4426950408889634
    lse += tl.sum(grad_out.to(tl.float32) * 0.0, axis=1)
    seen = _pairs(outer_entries, inner_entries, ROWS, LINES, INNER, UNION)
    q = _tile(q_ptr, q_at, inside, d, UNIT)
    k = _tile(k_ptr, k_at, inside, d, UNIT)
    scores = tl.dot(q, tl.trans(k)) * (scale * 1.4426950408889634)
    weights = tl.where(seen, tl.exp2(scores - lse[:, None]), 0.0)
    dv = tl.dot(tl.trans(weights.to(grad_out.dtype)), _finite(grad_out))
    at = _row_offsets(b, o, n, h, i, j, dv_b, dv_o, dv_n, dv_h, dv_i, dv_j)
    _write(dv_ptr, at, inside, d, dv, UNIT)
    at = _row_offsets(b, o, n, h, i, j, v_b, v_o, v_n, v_h, v_i, v_j)
    v = _tile(v_ptr, at, inside, d, UNIT)
    grad_weights = tl.dot(grad_out, tl.trans(v))
    grad_scores = tl.where(seen, weights * (grad_weights - delta[:, None]) * scale, 0.0).to(q.dtype)
    dq = tl.dot(grad_scores, _finite(_tile(k_ptr, k_at, inside, d, UNIT)))
    at = _row_offsets(b, o, n, h, i, j, dq_b, dq_o, dq_n, dq_h, dq_i, dq_j)
    _write(dq_ptr, at, inside, d, dq, UNIT)
    dk = tl.dot(tl.trans(grad_scores), _finite(_tile(q_ptr, q_at, inside, d, UNIT)))
    at = _row_offsets(b, o, n, h, i, j, dk_b, dk_o, dk_n, dk_h, dk_i, dk_j)
    _write(dk_ptr, at, inside, d, dk, UNIT)
