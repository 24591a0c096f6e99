"""Triton kernels of QK-norm and rotary embedding: one launch for q and k, every element read and written once.

A program takes ROWS rows of one frame; a row is one head of one token. Strides are in units of UNIT elements, those of
the angles in elements. Arithmetic is in fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl

_GRID = ("views", "times", "tokens", "heads", "blocks")


def _of(*names: str, dims: str = "bvtnh") -> tuple[str, ...]:
    return tuple(f"{name}_{dim}" for name in names for dim in dims)


FORWARD_INTEGERS = (*_GRID, *_of("q", "k", "out_q", "out_k"), *_of("cos", "sin", dims="bvtnp"))
BACKWARD_INTEGERS = (*_GRID, *_of("grad_q", "grad_k", "q", "k", "dq", "dk"), *_of("cos", "sin", dims="bvtnp"))


@triton.jit
def _frame_offset(b, v, t, stride_b, stride_v, stride_t):
    return b.to(tl.int64) * stride_b + v.to(tl.int64) * stride_v + t.to(tl.int64) * stride_t


@triton.jit
def _elements(frame, n, h, stride_n, stride_h, d, UNIT: tl.constexpr):
    rows = frame + n.to(tl.int64) * stride_n + h.to(tl.int64) * stride_h
    return (rows * UNIT)[:, None] + d[None, :]


@triton.jit
def _angles(pointer, frame, n, valid, stride_n, stride_pair, D: tl.constexpr, BLOCK_D: tl.constexpr,
            UNIT: tl.constexpr):
    """``(ROWS, BLOCK_D / 2)`` in fp32. UNIT is 0 where neighbouring pairs are apart in memory."""
    pair = tl.arange(0, BLOCK_D // 2)
    inside = valid[:, None] & (pair < D // 2)[None, :]
    rows = frame + n.to(tl.int64) * stride_n
    if UNIT:
        at = (rows * UNIT)[:, None] + pair[None, :]
    else:
        at = rows[:, None] + pair.to(tl.int64)[None, :] * stride_pair
    return tl.load(pointer + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _rotate(x, cos, sin, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Turn each pair of channels (2i, 2i + 1) by its angle."""
    even, odd = tl.split(tl.reshape(x, (ROWS, BLOCK_D // 2, 2)))
    turned = tl.join(even * cos - odd * sin, even * sin + odd * cos)
    return tl.reshape(turned, (ROWS, BLOCK_D))


@triton.jit
def _inverse_rms(x, eps, D: tl.constexpr):
    return tl.rsqrt(tl.sum(x * x, axis=1) / D + eps)


@triton.jit
def _weight(pointer, d, D: tl.constexpr):
    return tl.load(pointer + d, mask=d < D, other=0.0).to(tl.float32)


@triton.jit
def _norm_rope(x, weight_ptr, cos, sin, eps, d, D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
               NORM: tl.constexpr, ROPE: tl.constexpr):
    y = x.to(tl.float32)
    if NORM:
        y = y * _inverse_rms(y, eps, D)[:, None] * _weight(weight_ptr, d, D)[None, :]
    if ROPE:
        y = _rotate(y, cos, sin, ROWS, BLOCK_D)
    return y


@triton.jit(do_not_specialize=FORWARD_INTEGERS)
def forward_kernel(
    q_ptr, k_ptr, out_q_ptr, out_k_ptr, q_weight_ptr, k_weight_ptr, cos_ptr, sin_ptr, eps,
    views, times, tokens, heads, blocks,
    q_b, q_v, q_t, q_n, q_h, k_b, k_v, k_t, k_n, k_h,
    out_q_b, out_q_v, out_q_t, out_q_n, out_q_h, out_k_b, out_k_v, out_k_t, out_k_n, out_k_h,
    cos_b, cos_v, cos_t, cos_n, cos_p, sin_b, sin_v, sin_t, sin_n, sin_p,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, UNIT: tl.constexpr,
    NORM: tl.constexpr, ROPE: tl.constexpr, ANGLE_UNIT: tl.constexpr,
):
    index = tl.program_id(0) // blocks
    row = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    t, v, b = index % times, index // times % views, index // times // views
    n, h = row // heads, row % heads
    d = tl.arange(0, BLOCK_D)
    valid = row < tokens * heads
    inside = valid[:, None] & (d < D)[None, :]
    q_at = _elements(_frame_offset(b, v, t, q_b, q_v, q_t), n, h, q_n, q_h, d, UNIT)
    k_at = _elements(_frame_offset(b, v, t, k_b, k_v, k_t), n, h, k_n, k_h, d, UNIT)
    q = tl.load(q_ptr + q_at, mask=inside, other=0.0)
    k = tl.load(k_ptr + k_at, mask=inside, other=0.0)
    cos = None
    sin = None
    if ROPE:
        frame = _frame_offset(b, v, t, cos_b, cos_v, cos_t)
        cos = _angles(cos_ptr, frame, n, valid, cos_n, cos_p, D, BLOCK_D, ANGLE_UNIT)
        frame = _frame_offset(b, v, t, sin_b, sin_v, sin_t)
        sin = _angles(sin_ptr, frame, n, valid, sin_n, sin_p, D, BLOCK_D, ANGLE_UNIT)
    q = _norm_rope(q, q_weight_ptr, cos, sin, eps, d, D, BLOCK_D, ROWS, NORM, ROPE)
    k = _norm_rope(k, k_weight_ptr, cos, sin, eps, d, D, BLOCK_D, ROWS, NORM, ROPE)
    out_q_at = _elements(_frame_offset(b, v, t, out_q_b, out_q_v, out_q_t), n, h, out_q_n, out_q_h, d, UNIT)
    out_k_at = _elements(_frame_offset(b, v, t, out_k_b, out_k_v, out_k_t), n, h, out_k_n, out_k_h, d, UNIT)
    tl.store(out_q_ptr + out_q_at, q.to(out_q_ptr.dtype.element_ty), mask=inside)
    tl.store(out_k_ptr + out_k_at, k.to(out_k_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gradients(grad, x, weight_ptr, cos, sin, eps, d, D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
               NORM: tl.constexpr, ROPE: tl.constexpr):
    """Of the rows of ``x``, and the terms of the weight's gradient."""
    g = grad.to(tl.float32)
    if ROPE:
        g = _rotate(g, cos, -sin, ROWS, BLOCK_D)
    terms = g
    if NORM:
        value = x.to(tl.float32)
        inverse = _inverse_rms(value, eps, D)[:, None]
        normalised = value * inverse
        terms = g * normalised
        g = g * _weight(weight_ptr, d, D)[None, :]
        along = tl.sum(g * normalised, axis=1)[:, None] / D
        g = inverse * (g - normalised * along)
    return g, terms


@triton.jit(do_not_specialize=BACKWARD_INTEGERS)
def backward_kernel(
    grad_q_ptr, grad_k_ptr, q_ptr, k_ptr, dq_ptr, dk_ptr, q_weight_ptr, k_weight_ptr, partial_ptr, cos_ptr, sin_ptr,
    eps, views, times, tokens, heads, blocks,
    grad_q_b, grad_q_v, grad_q_t, grad_q_n, grad_q_h, grad_k_b, grad_k_v, grad_k_t, grad_k_n, grad_k_h,
    q_b, q_v, q_t, q_n, q_h, k_b, k_v, k_t, k_n, k_h, dq_b, dq_v, dq_t, dq_n, dq_h, dk_b, dk_v, dk_t, dk_n, dk_h,
    cos_b, cos_v, cos_t, cos_n, cos_p, sin_b, sin_v, sin_t, sin_n, sin_p,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr, UNIT: tl.constexpr,
    NORM: tl.constexpr, ROPE: tl.constexpr, ANGLE_UNIT: tl.constexpr,
):
    """A program takes STEPS blocks of rows and leaves its sums for the weights in ``partial_ptr[program, q or k, D]``.

    The caller adds these in a fixed order, so that results repeat bit for bit.
    """
    index = tl.program_id(0) // blocks
    t, v, b = index % times, index // times % views, index // times // views
    d = tl.arange(0, BLOCK_D)
    sum_q = tl.zeros([ROWS, BLOCK_D], tl.float32)
    sum_k = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for step in range(STEPS):
        row = (tl.program_id(0) % blocks * STEPS + step) * ROWS + tl.arange(0, ROWS)
        n, h = row // heads, row % heads
        valid = row < tokens * heads
        inside = valid[:, None] & (d < D)[None, :]
        at = _elements(_frame_offset(b, v, t, grad_q_b, grad_q_v, grad_q_t), n, h, grad_q_n, grad_q_h, d, UNIT)
        grad_q = tl.load(grad_q_ptr + at, mask=inside, other=0.0)
        at = _elements(_frame_offset(b, v, t, grad_k_b, grad_k_v, grad_k_t), n, h, grad_k_n, grad_k_h, d, UNIT)
        grad_k = tl.load(grad_k_ptr + at, mask=inside, other=0.0)
        q = grad_q
        k = grad_k
        if NORM:
            at = _elements(_frame_offset(b, v, t, q_b, q_v, q_t), n, h, q_n, q_h, d, UNIT)
            q = tl.load(q_ptr + at, mask=inside, other=0.0)
            at = _elements(_frame_offset(b, v, t, k_b, k_v, k_t), n, h, k_n, k_h, d, UNIT)
            k = tl.load(k_ptr + at, mask=inside, other=0.0)
        cos = None
        sin = None
        if ROPE:
            frame = _frame_offset(b, v, t, cos_b, cos_v, cos_t)
            cos = _angles(cos_ptr, frame, n, valid, cos_n, cos_p, D, BLOCK_D, ANGLE_UNIT)
            frame = _frame_offset(b, v, t, sin_b, sin_v, sin_t)
            sin = _angles(sin_ptr, frame, n, valid, sin_n, sin_p, D, BLOCK_D, ANGLE_UNIT)
        dq, terms_q = _gradients(grad_q, q, q_weight_ptr, cos, sin, eps, d, D, BLOCK_D, ROWS, NORM, ROPE)
        dk, terms_k = _gradients(grad_k, k, k_weight_ptr, cos, sin, eps, d, D, BLOCK_D, ROWS, NORM, ROPE)
        at = _elements(_frame_offset(b, v, t, dq_b, dq_v, dq_t), n, h, dq_n, dq_h, d, UNIT)
        tl.store(dq_ptr + at, dq.to(dq_ptr.dtype.element_ty), mask=inside)
        at = _elements(_frame_offset(b, v, t, dk_b, dk_v, dk_t), n, h, dk_n, dk_h, d, UNIT)
        tl.store(dk_ptr + at, dk.to(dk_ptr.dtype.element_ty), mask=inside)
        if NORM:
            sum_q += terms_q
            sum_k += terms_k
    if NORM:
        partial = partial_ptr + tl.program_id(0).to(tl.int64) * 2 * D + d
        tl.store(partial, tl.sum(sum_q, axis=0), mask=d < D)
        tl.store(partial + D, tl.sum(sum_k, axis=0), mask=d < D)
