"""Triton's interpreter holds bfloat16 as uint16: dots multiply the bit patterns, casts truncate. Both put right here.

Other arithmetic on bfloat16 stays wrong there: kernels convert to float32 first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def widen(bits: np.ndarray) -> np.ndarray:
    """float32 of the bit patterns of bfloat16 (uint16)."""
    return (np.asarray(bits, np.uint32) << 16).view(np.float32)


def round_to_nearest(x: np.ndarray) -> np.ndarray:
    """The bit patterns of float32 ``x`` as bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def _widened(handle: TensorHandle) -> TensorHandle:
    is_bfloat16 = handle.dtype.scalar == tl.bfloat16
    return TensorHandle(widen(handle.data), tl.float32) if is_bfloat16 else handle


@contextmanager
def corrected() -> Iterator[None]:
    """While open, the interpreter's dot takes bfloat16 operands and its casts to bfloat16 round to nearest."""
    plain_dot, plain_cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def create_dot(self, a, b, *arguments):
        return plain_dot(self, _widened(a), _widened(b), *arguments)

    def cast_impl(self, source, target):
        kinds = source.dtype.scalar, target.scalar
        if kinds == (tl.bfloat16, tl.float32):
            return TensorHandle(widen(source.data), tl.float32)
        if kinds == (tl.float32, tl.bfloat16):
            return TensorHandle(round_to_nearest(source.data), tl.bfloat16)
        return plain_cast(self, source, target)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast_impl
    try:
        yield
    finally:
        InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = plain_dot, plain_cast
