"""What the Triton kernels of the exchange share: where rows of channels lie, and the factors of a channel.

Kernels see streams as grids ``(B, V, T, N, C)``; a row is one token, numbered within its batch entry. Strides are in
units of UNIT elements. Parameters that are absent are None, which removes them from the compiled kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROW_DIMS = "bvtn"


def stride_names(*tensors: str) -> tuple[str, ...]:
    return tuple(f"{name}_{dim}" for name in tensors for dim in ROW_DIMS)


@triton.jit
def row_elements(b, row, c, times, tokens, stride_b, stride_v, stride_t, stride_n, UNIT: tl.constexpr):
    """Offsets ``(rows, channels)`` of rows of the batch entry ``b``."""
    frame = row // tokens
    n, t, v = row % tokens, frame % times, frame // times
    inner = v.to(tl.int64) * stride_v + t.to(tl.int64) * stride_t + n.to(tl.int64) * stride_n
    return ((b.to(tl.int64) * stride_b + inner) * UNIT)[:, None] + c[None, :]


@triton.jit
def per_channel(pointer, at, inside, absent: tl.constexpr):
    """``(1, channels)`` of a parameter in fp32."""
    if pointer is None:
        values = tl.full(inside.shape, absent, tl.float32)
    else:
        values = tl.load(pointer + at, mask=inside, other=absent).to(tl.float32)
    return values[None, :]


@triton.jit
def stream_factor(weight_ptr, scale_ptr, gate_ptr, b, c, inside, OUT: tl.constexpr, IN: tl.constexpr,
                  OUTS: tl.constexpr, C: tl.constexpr):
    """gate * weight * input_scale of output OUT and input IN (0 is view, 1 is time): ``(1, channels)``."""
    factor = per_channel(weight_ptr, (2 * OUT + IN) * C + c, inside, 0.0)
    factor *= per_channel(scale_ptr, (2 * b + IN) * C + c, inside, 1.0)
    return factor * per_channel(gate_ptr, (OUTS * b + OUT) * C + c, inside, 1.0)


@triton.jit
def offset(bias_ptr, gate_ptr, b, c, inside, OUT: tl.constexpr, OUTS: tl.constexpr, C: tl.constexpr):
    """gate * bias of output OUT: ``(1, channels)``."""
    bias = per_channel(bias_ptr, OUT * C + c, inside, 0.0)
    return bias * per_channel(gate_ptr, (OUTS * b + OUT) * C + c, inside, 1.0)


@triton.jit
def mix(view, time, weight_ptr, bias_ptr, scale_ptr, gate_ptr, b, c, inside, OUT: tl.constexpr, HARD: tl.constexpr,
        C: tl.constexpr):
    """What output OUT takes from both streams, in fp32."""
    OUTS: tl.constexpr = 1 if HARD else 2
    mixed = view * stream_factor(weight_ptr, scale_ptr, gate_ptr, b, c, inside, OUT, 0, OUTS, C)
    mixed += time * stream_factor(weight_ptr, scale_ptr, gate_ptr, b, c, inside, OUT, 1, OUTS, C)
    if bias_ptr is not None:
        mixed += offset(bias_ptr, gate_ptr, b, c, inside, OUT, OUTS, C)
    return mixed
