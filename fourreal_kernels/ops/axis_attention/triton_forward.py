"""Forward kernels of ``axis_attention``: online softmax over a list of frames, for one stream or for both."""

import triton
import triton.language as tl

from .triton_frames import (
    list_length,
    listed_frame,
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

LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _attend(q, k, v, peak, total, acc, scale, valid, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """One tile of keys: the running maximum (base 2), sum and weighted values after it."""
    scores = products(q, k, PRECISION)
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
    DESCRIPTORS: tl.constexpr, FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr, WIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr,
):
    """A tile of a frame list, through a tensor descriptor (B, V, T, N, H * D) or through pointers."""
    if DESCRIPTORS:
        entry = start // sizes[2]
        view, time = listed_frame(entry, place[2], place[3], sizes[1], FRAMES)
        box = source.load([place[0], view, time, start - entry * sizes[2], place[1] * HEAD_DIM])
        return box.reshape(BLOCK, BLOCK_D)
    else:
        base, offsets = listed_offsets(start, place, sizes, strides, FRAMES, TOKENS, SPAN, WIDE, BLOCK)
        return load_rows(source, base, offsets, valid, MASKED, HEAD_DIM, BLOCK_D, UNIT)


@triton.jit
def _walk(
    query, k, v, place, sizes, k_strides, v_strides, extra_k, extra_v, extra_tokens, ek_strides, ev_strides, scale,
    FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr, WIDE: tl.constexpr, TAIL: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr,
):
    """Output and log-sum-exp of one tile of queries over the extra tokens, if there are any, and its frame list.

    With a tail, the last tile, whole or not, comes first, so that no tile of the loop needs a mask. (Behind the loop,
    it makes ptxas serialise the matrix instructions of sm_90.) The tiles of extra tokens have masks too; they and the
    tail share one loop, because a third copy of the body does not fit the registers of sm_80.
    """
    length = list_length(sizes, FRAMES, TOKENS)
    looped = (length - 1) // BLOCK_K * BLOCK_K if TAIL else length
    peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    if extra_k is not None:
        for tile in tl.range(0, tl.cdiv(extra_tokens, BLOCK_K) + TAIL, num_stages=1):
            valid = masked_rows(tile, extra_tokens, looped, length, BLOCK_K)
            key = load_masked(
                extra_k, k, tile, extra_tokens, looped, valid, place, sizes, ek_strides, k_strides,
                FRAMES, TOKENS, SPAN, WIDE, TAIL, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
            )
            value = load_masked(
                extra_v, v, tile, extra_tokens, looped, valid, place, sizes, ev_strides, v_strides,
                FRAMES, TOKENS, SPAN, WIDE, TAIL, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
            )
            peak, total, acc = _attend(query, key, value, peak, total, acc, scale, valid, True, PRECISION)
        # total is positive: without an operation on acc between the loops ptxas serialises as well
        acc = tl.where(total[:, None] > 0.0, acc, 0.0)
    elif TAIL:
        valid = looped + tl.arange(0, BLOCK_K) < length
        key = _load_listed(
            k, looped, place, sizes, k_strides, valid, True,
            DESCRIPTORS, FRAMES, TOKENS, SPAN, WIDE, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
        )
        value = _load_listed(
            v, looped, place, sizes, v_strides, valid, True,
            DESCRIPTORS, FRAMES, TOKENS, SPAN, WIDE, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
        )
        peak, total, acc = _attend(query, key, value, peak, total, acc, scale, valid, True, PRECISION)
    for start in range(0, looped, BLOCK_K):
        key = _load_listed(
            k, start, place, sizes, k_strides, None, False,
            DESCRIPTORS, FRAMES, TOKENS, SPAN, WIDE, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
        )
        value = _load_listed(
            v, start, place, sizes, v_strides, None, False,
            DESCRIPTORS, FRAMES, TOKENS, SPAN, WIDE, HEAD_DIM, BLOCK_K, BLOCK_D, UNIT,
        )
        peak, total, acc = _attend(query, key, value, peak, total, acc, scale, None, False, PRECISION)
    return acc / total[:, None], (peak + tl.math.log2(total)) * LN_2


@triton.jit
def _load_query(
    q, place, rows, exist, strides, TOKENS: tl.constexpr, NEGATIVE: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr,
):
    base, offsets = own_offsets(place, rows, strides, TOKENS, BLOCK)
    query = load_rows(q, base, offsets, exist, True, HEAD_DIM, BLOCK_D, UNIT)
    return negated(query) if NEGATIVE else query


@triton.jit
def _store_results(
    out, lse, result, logsumexp, place, rows, exist, out_strides, lse_strides, TOKENS: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr,
):
    base, offsets = own_offsets(place, rows, out_strides, TOKENS, BLOCK)
    store_rows(out, base, offsets, exist, result, HEAD_DIM, BLOCK_D, UNIT)
    base, offsets = own_offsets(place, rows, lse_strides, TOKENS, BLOCK)
    tl.store(lse + base + offsets, logsumexp, mask=exist)


@triton.jit
def attention_forward(
    q, k, v, out, lse,
    q_b, q_v, q_t, q_n, q_h, k_b, k_v, k_t, k_n, k_h, v_b, v_v, v_t, v_n, v_h,
    out_b, out_v, out_t, out_n, out_h, lse_b, lse_v, lse_t, lse_n, lse_h,
    views, times, tokens, heads, scale,
    extra_k, extra_v, ek_b, ek_n, ek_h, ev_b, ev_n, ev_h, extra_tokens,
    FRAMES: tl.constexpr, TOKENS: tl.constexpr, SPAN: tl.constexpr, WIDE: tl.constexpr, TAIL: tl.constexpr,
    NEGATIVE: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr,
):
    """One stream: a program per tile of queries. ``scale`` is |scale| log2(e). Without extra tokens their arguments are
    None.
    """
    sizes = (views, times, tokens, heads)
    tiles = tl.cdiv(own_length(sizes, FRAMES, TOKENS), BLOCK_Q)
    place, tile = locate(tl.program_id(0), tiles, sizes, FRAMES, TOKENS)
    rows, exist = own_rows(tile, place, sizes, FRAMES, TOKENS, BLOCK_Q)
    query = _load_query(
        q, place, rows, exist, (q_b, q_v, q_t, q_n, q_h), TOKENS, NEGATIVE, HEAD_DIM, BLOCK_Q, BLOCK_D, UNIT
    )
    result, logsumexp = _walk(
        query, k, v, place, sizes, (k_b, k_v, k_t, k_n, k_h), (v_b, v_v, v_t, v_n, v_h),
        extra_k, extra_v, extra_tokens, (ek_b, ek_n, ek_h), (ev_b, ev_n, ev_h), scale,
        FRAMES, TOKENS, SPAN, WIDE, TAIL, DESCRIPTORS, PRECISION, HEAD_DIM, BLOCK_Q, BLOCK_K, BLOCK_D, UNIT,
    )
    _store_results(
        out, lse, result, logsumexp, place, rows, exist,
        (out_b, out_v, out_t, out_n, out_h), (lse_b, lse_v, lse_t, lse_n, lse_h),
        TOKENS, HEAD_DIM, BLOCK_Q, BLOCK_D, UNIT,
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
    SPAN: tl.constexpr, WIDE: tl.constexpr, TAIL: tl.constexpr, NEGATIVE: tl.constexpr, PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, UNIT: tl.constexpr,
):
    """View attention of the first stream and time attention of the second, whose arguments end in 2, in one launch.

    The second stream comes with the strides of views and timesteps exchanged, as all time attention. Only what the loop
    needs of its tensors is selected; the rest is read in branches, where it holds no registers during the loop.
    """
    second = tl.program_id(0) >= first_programs
    program = tl.program_id(0) - tl.where(second, first_programs, 0)
    sizes = (tl.where(second, times, views), tl.where(second, views, times), tokens, heads)
    tiles = tl.cdiv(own_length(sizes, "views", True), BLOCK_Q)
    place, tile = locate(program, tiles, sizes, "views", True)
    rows, exist = own_rows(tile, place, sizes, "views", True, BLOCK_Q)
    if second:
        query = _load_query(
            q2, place, rows, exist, (q2_b, q2_v, q2_t, q2_n, q2_h), True, NEGATIVE, HEAD_DIM, BLOCK_Q, BLOCK_D, UNIT
        )
    else:
        query = _load_query(
            q, place, rows, exist, (q_b, q_v, q_t, q_n, q_h), True, NEGATIVE, HEAD_DIM, BLOCK_Q, BLOCK_D, UNIT
        )
    result, logsumexp = _walk(
        query, tl.where(second, k2, k), tl.where(second, v2, v), place, sizes,
        _pick(second, (k_b, k_v, k_t, k_n, k_h), (k2_b, k2_v, k2_t, k2_n, k2_h)),
        _pick(second, (v_b, v_v, v_t, v_n, v_h), (v2_b, v2_v, v2_t, v2_n, v2_h)),
        None, None, None, None, None, scale,
        "views", True, SPAN, WIDE, TAIL, False, PRECISION, HEAD_DIM, BLOCK_Q, BLOCK_K, BLOCK_D, UNIT,
    )
    if second:
        _store_results(
            out2, lse2, result, logsumexp, place, rows, exist,
            (out2_b, out2_v, out2_t, out2_n, out2_h), (lse2_b, lse2_v, lse2_t, lse2_n, lse2_h),
            True, HEAD_DIM, BLOCK_Q, BLOCK_D, UNIT,
        )
    else:
        _store_results(
            out, lse, result, logsumexp, place, rows, exist,
            (out_b, out_v, out_t, out_n, out_h), (lse_b, lse_v, lse_t, lse_n, lse_h),
            True, HEAD_DIM, BLOCK_Q, BLOCK_D, UNIT,
        )
