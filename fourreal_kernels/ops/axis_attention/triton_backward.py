"""Backward kernels of ``axis_attention``: deterministic, without atomics.

With P the probabilities, dP = dO V^T and delta = rowsum(dO * O) - grad_lse:
dS = P * (dP - delta), dQ = scale dS K, dK = scale dS^T Q, dV = P^T dO. One kernel gives each tile of keys its dK and
dV, walking the list of its queries; another gives each tile of queries its dQ. The relation is symmetric, so both walk
the frame lists of the forward kernel. Extra tokens are in the log-sum-exp and in delta; only dQ sees them themselves.
"""

import triton
import triton.language as tl

from .triton_frames import (
    list_length,
    listed_offsets,
    load_masked,
    load_rows,
    locate,
    masked_rows,
    negated,
    own_length,
    own_offsets,
    own_rows,
    products,
    store_rows,
)

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _pair_offsets(row, strides):
    offset = tl.cast(row[0], tl.int64) * strides[0] + tl.cast(row[1], tl.int64) * strides[1]
    offset += tl.cast(row[2], tl.int64) * strides[2]
    return offset + tl.cast(row[3], tl.int64) * strides[3] + tl.cast(row[4], tl.int64) * strides[4]


@triton.jit
def attention_backward_rows(
    out, grad_out, lse, grad_lse, lse_base_2, delta,
    out_b, out_v, out_t, out_n, out_h, do_b, do_v, do_t, do_n, do_h,
    lse_b, lse_v, lse_t, lse_n, lse_h, grad_lse_b, grad_lse_v, grad_lse_t, grad_lse_n, grad_lse_h,
    row_b, row_v, row_t, row_n, row_h,
    views, times, tokens, heads,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr,
):
    """The base-2 log-sum-exp and delta of each query, in the layout that the other kernels read.

    A program takes ``BLOCK`` (token, head) pairs of one frame. ``grad_lse`` may be None.
    """
    tiles = tl.cdiv(tokens * heads, BLOCK)
    frame = tl.program_id(0) // tiles
    pair = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    exist = pair < tokens * heads
    row = (frame // times // views, frame // times % views, frame % times, pair // heads, pair % heads)
    offsets = _pair_offsets(row, (out_b, out_v, out_t, out_n, out_h))
    values = load_rows(out, 0, offsets, exist, True, HEAD_DIM, BLOCK_D, UNIT).to(tl.float32)
    offsets = _pair_offsets(row, (do_b, do_v, do_t, do_n, do_h))
    grad = load_rows(grad_out, 0, offsets, exist, True, HEAD_DIM, BLOCK_D, UNIT).to(tl.float32)
    total = tl.sum(values * grad, 1)
    if grad_lse is not None:
        offsets = _pair_offsets(row, (grad_lse_b, grad_lse_v, grad_lse_t, grad_lse_n, grad_lse_h))
        total -= tl.load(grad_lse + offsets, mask=exist, other=0.0)
    natural = tl.load(lse + _pair_offsets(row, (lse_b, lse_v, lse_t, lse_n, lse_h)), mask=exist, other=0.0)
    offsets = _pair_offsets(row, (row_b, row_v, row_t, row_n, row_h))
    tl.store(lse_base_2 + offsets, natural * LOG2_E, mask=exist)
    tl.store(delta + offsets, total, mask=exist)


@triton.jit
def walk_queries(
    key, value, first, last, q, grad_out, lse_base_2, delta, place, sizes, q_strides, do_strides, row_strides, scale,
    FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr, WIDE: tl.constexpr, TAIL: tl.constexpr,
    PRECISION: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr, UNIT: tl.constexpr, GRADIENTS: tl.constexpr,
):
    """dS^T Q and P^T dO of one tile of keys over rows ``first``, ..., ``last`` - 1 of the list of their queries.

    Queries beyond ``last`` read as zeros of infinite log-sum-exp: P = 0. ``value`` is not read for "values".
    """
    acc_k = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    acc_v = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    for start in range(first, last, BLOCK_Q):
        valid = start + tl.arange(0, BLOCK_Q) < last
        shift, listed = listed_offsets(start, place, sizes, q_strides, FRAMES, TOKENS, SPAN, WIDE, BLOCK_Q)
        query = load_rows(q, shift, listed, valid, TAIL, HEAD_DIM, BLOCK_D, UNIT)
        shift, listed = listed_offsets(start, place, sizes, row_strides, FRAMES, TOKENS, SPAN, WIDE, BLOCK_Q)
        if TAIL:
            lse = tl.load(lse_base_2 + shift + listed, mask=valid, other=float("inf"))
            offset = tl.load(delta + shift + listed, mask=valid, other=0.0)
        else:
            lse = tl.load(lse_base_2 + shift + listed)
            offset = tl.load(delta + shift + listed)
        scores = products(key, query, PRECISION)
        weights = tl.math.exp2(scores * scale - lse[None, :])
        shift, listed = listed_offsets(start, place, sizes, do_strides, FRAMES, TOKENS, SPAN, WIDE, BLOCK_Q)
        grad = load_rows(grad_out, shift, listed, valid, TAIL, HEAD_DIM, BLOCK_D, UNIT)
        if GRADIENTS != "keys":
            acc_v = tl.dot(weights.to(grad.dtype), grad, acc_v, input_precision=PRECISION)
        if GRADIENTS != "values":
            grad_weights = products(value, grad, PRECISION)
            grad_scores = weights * (grad_weights - offset[None, :])
            acc_k = tl.dot(grad_scores.to(query.dtype), query, acc_k, input_precision=PRECISION)
    return acc_k, acc_v


@triton.jit
def attention_backward_keys(
    q, k, v, grad_out, lse_base_2, delta, grad_k, grad_v,
    q_b, q_v, q_t, q_n, q_h, k_b, k_v, k_t, k_n, k_h, v_b, v_v, v_t, v_n, v_h,
    do_b, do_v, do_t, do_n, do_h, row_b, row_v, row_t, row_n, row_h,
    dk_b, dk_v, dk_t, dk_n, dk_h, dv_b, dv_v, dv_t, dv_n, dv_h,
    views, times, tokens, heads, scale, natural_scale,
    FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr, WIDE: tl.constexpr, TAIL: tl.constexpr,
    NEGATIVE: tl.constexpr, PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    UNIT: tl.constexpr, GRADIENTS: tl.constexpr,
):
    """dK and dV of one tile of keys, or one of them: ``GRADIENTS`` is "both", "keys" or "values"."""
    q_strides = (q_b, q_v, q_t, q_n, q_h)
    k_strides = (k_b, k_v, k_t, k_n, k_h)
    v_strides = (v_b, v_v, v_t, v_n, v_h)
    do_strides = (do_b, do_v, do_t, do_n, do_h)
    row_strides = (row_b, row_v, row_t, row_n, row_h)
    sizes = (views, times, tokens, heads)

    tiles = tl.cdiv(own_length(sizes, FRAMES, TOKENS), BLOCK_K)
    place, tile = locate(tl.program_id(0), tiles, sizes, FRAMES, TOKENS)
    rows, exist = own_rows(tile, place, sizes, FRAMES, TOKENS, BLOCK_K)
    base, offsets = own_offsets(place, rows, k_strides, TOKENS, BLOCK_K)
    key = load_rows(k, base, offsets, exist, True, HEAD_DIM, BLOCK_D, UNIT)
    if NEGATIVE:
        key = negated(key)
    value = key
    if GRADIENTS != "values":
        base, offsets = own_offsets(place, rows, v_strides, TOKENS, BLOCK_K)
        value = load_rows(v, base, offsets, exist, True, HEAD_DIM, BLOCK_D, UNIT)
    acc_k, acc_v = walk_queries(
        key, value, 0, list_length(sizes, FRAMES, TOKENS), q, grad_out, lse_base_2, delta, place, sizes,
        q_strides, do_strides, row_strides, scale, FRAMES, TOKENS, SPAN, WIDE, TAIL, PRECISION,
        HEAD_DIM, BLOCK_Q, BLOCK_K, BLOCK_D, UNIT, GRADIENTS,
    )
    if GRADIENTS != "keys":
        base, offsets = own_offsets(place, rows, (dv_b, dv_v, dv_t, dv_n, dv_h), TOKENS, BLOCK_K)
        store_rows(grad_v, base, offsets, exist, acc_v, HEAD_DIM, BLOCK_D, UNIT)
    if GRADIENTS != "values":
        base, offsets = own_offsets(place, rows, (dk_b, dk_v, dk_t, dk_n, dk_h), TOKENS, BLOCK_K)
        store_rows(grad_k, base, offsets, exist, acc_k * natural_scale, HEAD_DIM, BLOCK_D, UNIT)


@triton.jit
def _grad_query(
    query, grad, key, value, lse, offset, acc, scale, valid, MASKED: tl.constexpr, PRECISION: tl.constexpr
):
    """dS K of one tile of keys, added to ``acc``."""
    scores = products(query, key, PRECISION)
    weights = tl.math.exp2(scores * scale - lse[:, None])
    if MASKED:
        weights = tl.where(valid[None, :], weights, 0.0)
    grad_weights = products(grad, value, PRECISION)
    grad_scores = weights * (grad_weights - offset[:, None])
    return tl.dot(grad_scores.to(key.dtype), key, acc, input_precision=PRECISION)


@triton.jit
def attention_backward_queries(
    q, k, v, grad_out, lse_base_2, delta, grad_q,
    q_b, q_v, q_t, q_n, q_h, k_b, k_v, k_t, k_n, k_h, v_b, v_v, v_t, v_n, v_h,
    do_b, do_v, do_t, do_n, do_h, row_b, row_v, row_t, row_n, row_h, dq_b, dq_v, dq_t, dq_n, dq_h,
    views, times, tokens, heads, scale, natural_scale,
    extra_k, extra_v, ek_b, ek_n, ek_h, ev_b, ev_n, ev_h, extra_tokens,
    FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr, WIDE: tl.constexpr, TAIL: tl.constexpr,
    NEGATIVE: tl.constexpr, PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    UNIT: tl.constexpr,
):
    """dQ of one tile of queries. Extra tokens and the tail come first, as in the forward kernel."""
    q_strides = (q_b, q_v, q_t, q_n, q_h)
    k_strides = (k_b, k_v, k_t, k_n, k_h)
    v_strides = (v_b, v_v, v_t, v_n, v_h)
    do_strides = (do_b, do_v, do_t, do_n, do_h)
    row_strides = (row_b, row_v, row_t, row_n, row_h)
    sizes = (views, times, tokens, heads)

    tiles = tl.cdiv(own_length(sizes, FRAMES, TOKENS), BLOCK_Q)
    place, tile = locate(tl.program_id(0), tiles, sizes, FRAMES, TOKENS)
    rows, exist = own_rows(tile, place, sizes, FRAMES, TOKENS, BLOCK_Q)
    base, offsets = own_offsets(place, rows, q_strides, TOKENS, BLOCK_Q)
    query = load_rows(q, base, offsets, exist, True, HEAD_DIM, BLOCK_D, UNIT)
    if NEGATIVE:
        query = negated(query)
    base, offsets = own_offsets(place, rows, do_strides, TOKENS, BLOCK_Q)
    grad = load_rows(grad_out, base, offsets, exist, True, HEAD_DIM, BLOCK_D, UNIT)
    base, offsets = own_offsets(place, rows, row_strides, TOKENS, BLOCK_Q)
    lse = tl.load(lse_base_2 + base + offsets, mask=exist, other=float("inf"))
    offset = tl.load(delta + base + offsets, mask=exist, other=0.0)

    length = list_length(sizes, FRAMES, TOKENS)
    looped = (length - 1) // BLOCK_K * BLOCK_K if TAIL else length
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    if extra_k is not None:
        for tile in tl.range(0, tl.cdiv(extra_tokens, BLOCK_K) + TAIL, num_stages=1):
            valid = masked_rows(tile, extra_tokens, looped, length, BLOCK_K)
            key = load_masked(
                extra_k, k, tile, extra_tokens, looped, valid, place, sizes, (ek_b, ek_n, ek_h), k_strides,
                FRAMES, TOKENS, SPAN, WIDE, TAIL, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
            )
            value = load_masked(
                extra_v, v, tile, extra_tokens, looped, valid, place, sizes, (ev_b, ev_n, ev_h), v_strides,
                FRAMES, TOKENS, SPAN, WIDE, TAIL, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
            )
            acc = _grad_query(query, grad, key, value, lse, offset, acc, scale, valid, True, PRECISION)
        # changes no row that is stored; between the loops as in the forward kernel
        acc = tl.where(lse[:, None] < float("inf"), acc, 0.0)
    elif TAIL:
        valid = looped + tl.arange(0, BLOCK_K) < length
        shift, listed = listed_offsets(looped, place, sizes, k_strides, FRAMES, TOKENS, SPAN, WIDE, BLOCK_K)
        key = load_rows(k, shift, listed, valid, True, HEAD_DIM, BLOCK_D, UNIT)
        shift, listed = listed_offsets(looped, place, sizes, v_strides, FRAMES, TOKENS, SPAN, WIDE, BLOCK_K)
        value = load_rows(v, shift, listed, valid, True, HEAD_DIM, BLOCK_D, UNIT)
        acc = _grad_query(query, grad, key, value, lse, offset, acc, scale, valid, True, PRECISION)
    for start in range(0, looped, BLOCK_K):
        shift, listed = listed_offsets(start, place, sizes, k_strides, FRAMES, TOKENS, SPAN, WIDE, BLOCK_K)
        key = load_rows(k, shift, listed, None, False, HEAD_DIM, BLOCK_D, UNIT)
        shift, listed = listed_offsets(start, place, sizes, v_strides, FRAMES, TOKENS, SPAN, WIDE, BLOCK_K)
        value = load_rows(v, shift, listed, None, False, HEAD_DIM, BLOCK_D, UNIT)
        acc = _grad_query(query, grad, key, value, lse, offset, acc, scale, None, False, PRECISION)

    base, offsets = own_offsets(place, rows, (dq_b, dq_v, dq_t, dq_n, dq_h), TOKENS, BLOCK_Q)
    store_rows(grad_q, base, offsets, exist, acc * natural_scale, HEAD_DIM, BLOCK_D, UNIT)
