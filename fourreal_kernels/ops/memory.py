"""Overlap checks and bookkeeping for operators that write into tensors they are given."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.autograd.graph import increment_version

_MAX_WORK = 100_000


class _Layout:
    """Exposes a tensor's addresses to numpy's overlap solver, which reads none of the memory."""

    def __init__(self, x: Tensor):
        size = x.element_size()
        self.__array_interface__ = {
            "data": (x.data_ptr(), False),
            "shape": tuple(x.shape),
            "strides": tuple(stride * size for stride in x.stride()),
            "typestr": f"|V{size}",
            "version": 3,
        }


def overlaps(a: Tensor, b: Tensor) -> bool:
    """True when two tensors share at least one element (interleaved slices of one buffer do not)."""
    if a.device != b.device or a.numel() == 0 or b.numel() == 0:
        return False
    first, second = np.asarray(_Layout(a)), np.asarray(_Layout(b))
    if not np.may_share_memory(first, second):
        return False
    try:
        return np.shares_memory(first, second, max_work=_MAX_WORK)
    except np.exceptions.TooHardError:
        return True


def _addresses(x: Tensor) -> tuple[int, int]:
    """First byte of ``x`` and the one after its last; equal for an empty tensor."""
    begin, elements = x.data_ptr(), x.numel()
    if elements and not x.is_contiguous():
        elements = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return begin, begin + elements * x.element_size()


def overlaps_itself(x: Tensor) -> bool:
    """True when two indices of ``x`` may name the same element, as in an expanded tensor."""
    if x.is_contiguous():
        return False
    reach = 0
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def require_writable(name: str, x: Tensor, **others: Tensor | None) -> None:
    """Refuse a destination that overlaps itself or any of the other tensors.

    Raises:
        ValueError: naming the destination and the tensor it overlaps. Nothing has been written.
    """
    if overlaps_itself(x):
        raise ValueError(
            f"{name}: its elements overlap one another (shape {tuple(x.shape)}, strides {tuple(x.stride())}), "
            "so it cannot be written to; pass a tensor that is not expanded"
        )
    begin, end = _addresses(x)
    for other_name, other in others.items():
        if other is None:
            continue
        other_begin, other_end = _addresses(other)
        # Ranges of addresses that are apart settle most calls, at a fraction of the exact answer's cost.
        if begin < other_end and other_begin < end and overlaps(x, other):
            raise ValueError(f"{name}: shares memory with {other_name}; pass buffers that do not overlap")


def mark_written(*tensors: Tensor) -> None:
    """Tell autograd that these tensors were written, which it does not see when a kernel writes through a pointer."""
    increment_version(tensors)
