"""How the memory-bound Triton kernels are handed strided tensors, so that they move 16 bytes at a time.

Triton vectorises an access when it can prove its alignment, and proves it of integers only by multiples of 16 or of a
constant. Strides are therefore passed in units: of 16 bytes where every stride is a multiple of that, else of one
element. Importing this module does not import Triton.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_VECTOR_BYTES = 16


def stride_unit(*tensors: Tensor) -> int:
    """Elements of the unit in which every stride but the last of all the tensors can be given."""
    unit = max(1, _VECTOR_BYTES // tensors[0].element_size())
    fits = all(
        stride % unit == 0
        for x in tensors
        for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True)
        if size > 1
    )
    return unit if fits else 1


def strides_in(unit: int, x: Tensor) -> tuple[int, ...]:
    """Strides of every dim but the last, in units; that of a dim of one entry is never used and given as 0."""
    return tuple(
        0 if size == 1 else stride // unit for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True)
    )


def on_device(x: Tensor) -> AbstractContextManager:
    """Triton launches on the current device: make it that of ``x``."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least ``least``."""
    return 1 << max(0, least - 1).bit_length()
