"""Forward kernels of ``axis_attention``: online softmax over a list of frames, for one stream or for both."""

import triton
import triton.language as tl

from .triton_frames import (
    list_length,
    listed_frame,
    listed_offsets,
    load_rows,
    locate,
    negated,
    own_length,
    own_offsets,
    own_rows,
    store_rows,
)

LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _attend(q, k, v, peak, total, acc, scale, valid, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """One tile of keys: the running maximum (base 2), sum and weighted values after it."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if MASKED:
        scores = tl.where(valid[None, :], scores * scale, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.math.exp2(scores - new_peak[:, None])
    else:
        new_peak = tl.maximum(peak, tl.max(scores, 1) * scale)
        weights = tl.math.exp2(scores * scale - new_peak[:, None])
    decay = tl.math.exp2(peak - new_peak)
    total = total * decay + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * decay[:, None], input_precision=PRECISION)
    return new_peak, total, acc


@triton.jit
def _load_listed(
    source, start, place, sizes, strides, valid, MASKED: tl.constexpr,
    DESCRIPTORS: tl.constexpr, FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr,
):
    """A tile of a frame list, through a tensor descriptor (B, V, T, N, H * D) or through pointers."""
    if DESCRIPTORS:
        entry = start // sizes[2]
        view, time = listed_frame(entry, place[2], place[3], sizes[1], FRAMES)
        box = source.load([place[0], view, time, start - entry * sizes[2], place[1] * HEAD_DIM])
        return box.reshape(BLOCK, BLOCK_D)
    else:
        offsets = listed_offsets(start, place, sizes, strides, FRAMES, TOKENS, SPAN, BLOCK)
        return load_rows(source, offsets, valid, MASKED, HEAD_DIM, BLOCK_D, UNIT)


@triton.jit
def _forward_tile(
    program, q, k, v, out, lse, q_strides, k_strides, v_strides, out_strides, lse_strides, sizes, scale,
    FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr, TAIL: tl.constexpr, NEGATIVE: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Output and log-sum-exp of one tile of queries."""
    tiles = tl.cdiv(own_length(sizes, FRAMES, TOKENS), BLOCK_Q)
    place, tile = locate(program, tiles, sizes, FRAMES, TOKENS)
    rows, exist = own_rows(tile, place, sizes, FRAMES, TOKENS, BLOCK_Q)
    query = load_rows(q, own_offsets(place, rows, q_strides, TOKENS, BLOCK_Q), exist, True, HEAD_DIM, BLOCK_D, UNIT)
    if NEGATIVE:
        query = negated(query)

    length = list_length(sizes, FRAMES, TOKENS)
    # With a tail, the last tile, whole or not, comes first, so that no tile of the loop needs a mask. (Behind the loop,
    # it makes ptxas serialise the matrix instructions of sm_90.)
    looped = (length - 1) // BLOCK_K * BLOCK_K if TAIL else length
    peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    if TAIL:
        valid = looped + tl.arange(0, BLOCK_K) < length
        key = _load_listed(
            k, looped, place, sizes, k_strides, valid, True,
            DESCRIPTORS, FRAMES, TOKENS, SPAN, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
        )
        value = _load_listed(
            v, looped, place, sizes, v_strides, valid, True,
            DESCRIPTORS, FRAMES, TOKENS, SPAN, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
        )
        peak, total, acc = _attend(query, key, value, peak, total, acc, scale, valid, True, PRECISION)
    for start in range(0, looped, BLOCK_K):
        key = _load_listed(
            k, start, place, sizes, k_strides, None, False,
            DESCRIPTORS, FRAMES, TOKENS, SPAN, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
        )
        value = _load_listed(
            v, start, place, sizes, v_strides, None, False,
            DESCRIPTORS, FRAMES, TOKENS, SPAN, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
        )
        peak, total, acc = _attend(query, key, value, peak, total, acc, scale, None, False, PRECISION)

    out_offsets = own_offsets(place, rows, out_strides, TOKENS, BLOCK_Q)
    store_rows(out, out_offsets, exist, acc / total[:, None], HEAD_DIM, BLOCK_D, UNIT)
    lse_offsets = own_offsets(place, rows, lse_strides, TOKENS, BLOCK_Q)
    tl.store(lse + lse_offsets, (peak + tl.math.log2(total)) * LN_2, mask=exist)


@triton.jit
def attention_forward(
    q, k, v, out, lse,
    q_b, q_v, q_t, q_n, q_h, k_b, k_v, k_t, k_n, k_h, v_b, v_v, v_t, v_n, v_h,
    out_b, out_v, out_t, out_n, out_h, lse_b, lse_v, lse_t, lse_n, lse_h,
    views, times, tokens, heads, scale,
    FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr, TAIL: tl.constexpr, NEGATIVE: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    UNIT: tl.constexpr,
):
    """One stream: a program per tile of queries. ``scale`` is |scale| log2(e)."""
    _forward_tile(
        tl.program_id(0), q, k, v, out, lse,
        (q_b, q_v, q_t, q_n, q_h), (k_b, k_v, k_t, k_n, k_h), (v_b, v_v, v_t, v_n, v_h),
        (out_b, out_v, out_t, out_n, out_h), (lse_b, lse_v, lse_t, lse_n, lse_h),
        (views, times, tokens, heads), scale,
        FRAMES, TOKENS, SPAN, TAIL, NEGATIVE, DESCRIPTORS, PRECISION, HEAD_DIM, BLOCK_Q, BLOCK_K, BLOCK_D, UNIT,
    )


@triton.jit
def _pick(second, a, b):
    return (
        tl.where(second, b[0], a[0]), tl.where(second, b[1], a[1]), tl.where(second, b[2], a[2]),
        tl.where(second, b[3], a[3]), tl.where(second, b[4], a[4]),
    )


@triton.jit
def two_stream_forward(
    q, k, v, out, lse,
    q_b, q_v, q_t, q_n, q_h, k_b, k_v, k_t, k_n, k_h, v_b, v_v, v_t, v_n, v_h,
    out_b, out_v, out_t, out_n, out_h, lse_b, lse_v, lse_t, lse_n, lse_h,
    q2, k2, v2, out2, lse2,
    q2_b, q2_v, q2_t, q2_n, q2_h, k2_b, k2_v, k2_t, k2_n, k2_h, v2_b, v2_v, v2_t, v2_n, v2_h,
    out2_b, out2_v, out2_t, out2_n, out2_h, lse2_b, lse2_v, lse2_t, lse2_n, lse2_h,
    views, times, tokens, heads, scale, first_programs,
    SPAN: tl.constexpr, TAIL: tl.constexpr, NEGATIVE: tl.constexpr, PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    UNIT: tl.constexpr,
):
    """View attention of the first stream and time attention of the second, whose arguments end in 2, in one launch.

    The second stream comes with the strides of views and timesteps exchanged, as all time attention.
    """
    program = tl.program_id(0)
    second = program >= first_programs
    _forward_tile(
        tl.where(second, program - first_programs, program),
        tl.where(second, q2, q), tl.where(second, k2, k), tl.where(second, v2, v),
        tl.where(second, out2, out), tl.where(second, lse2, lse),
        _pick(second, (q_b, q_v, q_t, q_n, q_h), (q2_b, q2_v, q2_t, q2_n, q2_h)),
        _pick(second, (k_b, k_v, k_t, k_n, k_h), (k2_b, k2_v, k2_t, k2_n, k2_h)),
        _pick(second, (v_b, v_v, v_t, v_n, v_h), (v2_b, v2_v, v2_t, v2_n, v2_h)),
        _pick(second, (out_b, out_v, out_t, out_n, out_h), (out2_b, out2_v, out2_t, out2_n, out2_h)),
        _pick(second, (lse_b, lse_v, lse_t, lse_n, lse_h), (lse2_b, lse2_v, lse2_t, lse2_n, lse2_h)),
        (tl.where(second, times, views), tl.where(second, views, times), tokens, heads), scale,
        "views", True, SPAN, TAIL, NEGATIVE, False, PRECISION, HEAD_DIM, BLOCK_Q, BLOCK_K, BLOCK_D, UNIT,
    )
