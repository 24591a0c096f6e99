"""Gradients of the extra tokens of ``axis_attention``: every query of the grid attends to them.

They are few and their queries many, so the queries are cut into chunks: a program gives one tile of extra keys the part
of its dK and dV that comes from one chunk. The parts are added afterwards, in one order.
"""

import triton
import triton.language as tl

from .triton_backward import walk_queries
from .triton_frames import extra_offsets, list_length, load_rows, negated, store_rows


@triton.jit
def attention_backward_extra(
    q, extra_k, extra_v, grad_out, lse_base_2, delta, part_k, part_v,
    q_b, q_v, q_t, q_n, q_h, ek_b, ek_n, ek_h, ev_b, ev_n, ev_h,
    do_b, do_v, do_t, do_n, do_h, row_b, row_v, row_t, row_n, row_h,
    dk_b, dk_n, dk_h, dv_b, dv_n, dv_h,
    batches, views, times, tokens, heads, extra_tokens, chunk_rows, scale, natural_scale,
    SPAN: tl.constexpr, WIDE: tl.constexpr, TAIL: tl.constexpr, NEGATIVE: tl.constexpr, PRECISION: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    UNIT: tl.constexpr, GRADIENTS: tl.constexpr,
):
    """The part of dK and dV, or of one of them, of a tile of extra keys that ``chunk_rows`` queries give.

    ``part_k, part_v`` (chunks * B, L, H, D). Neighbouring programs read the same queries.
    """
    sizes = (views, times, tokens, heads)
    tiles = tl.cdiv(extra_tokens, BLOCK_K)
    start = tl.program_id(0) % tiles * BLOCK_K
    rest = tl.program_id(0) // tiles
    part = (rest // heads, rest % heads)
    place = (part[0] % batches, part[1], 0, 0, 0)
    exist = start + tl.arange(0, BLOCK_K) < extra_tokens
    base, offsets = extra_offsets(start, place, (ek_b, ek_n, ek_h), True, BLOCK_K)
    key = load_rows(extra_k, base, offsets, exist, True, HEAD_DIM, BLOCK_D, UNIT)
    if NEGATIVE:
        key = negated(key)
    value = key
    if GRADIENTS != "values":
        base, offsets = extra_offsets(start, place, (ev_b, ev_n, ev_h), True, BLOCK_K)
        value = load_rows(extra_v, base, offsets, exist, True, HEAD_DIM, BLOCK_D, UNIT)
    first = part[0] // batches * chunk_rows
    last = tl.minimum(first + chunk_rows, list_length(sizes, "all", True))
    acc_k, acc_v = walk_queries(
        key, value, first, last, q, grad_out, lse_base_2, delta, place, sizes,
        (q_b, q_v, q_t, q_n, q_h), (do_b, do_v, do_t, do_n, do_h), (row_b, row_v, row_t, row_n, row_h), scale,
        "all", True, SPAN, WIDE, TAIL, PRECISION, HEAD_DIM, BLOCK_Q, BLOCK_K, BLOCK_D, UNIT, GRADIENTS,
    )
    if GRADIENTS != "keys":
        base, offsets = extra_offsets(start, part, (dv_b, dv_n, dv_h), True, BLOCK_K)
        store_rows(part_v, base, offsets, exist, acc_v, HEAD_DIM, BLOCK_D, UNIT)
    if GRADIENTS != "values":
        base, offsets = extra_offsets(start, part, (dk_b, dk_n, dk_h), True, BLOCK_K)
        store_rows(part_k, base, offsets, exist, acc_k * natural_scale, HEAD_DIM, BLOCK_D, UNIT)
