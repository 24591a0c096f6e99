"""Overlap checks and bookkeeping for operators that write into tensors they are given."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.autograd.graph import increment_version

from .. import native

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
    if a.device != b.device or a.numel() == 0 or b.numel() == 0 or _interleaved(a, b):
        return False
    first, second = np.asarray(_Layout(a)), np.asarray(_Layout(b))
    if not np.may_share_memory(first, second):
        return False
    try:
        return np.shares_memory(first, second, max_work=_MAX_WORK)
    except np.exceptions.TooHardError:
        return True


def _span(x: Tensor) -> tuple[int, int]:
    """First byte of ``x`` and the one after its last; equal for an empty tensor."""
    begin = x.data_ptr()
    if x.is_contiguous() or x.numel() == 0:
        return begin, begin + x.nbytes
    last = sum([(size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)])
    return begin, begin + (1 + last) * x.element_size()


def _interleaved(a: Tensor, b: Tensor) -> bool:
    """True when ``b`` is ``a`` moved into the gaps between the blocks of ``a``, as q and k of one packed projection.

    False says nothing: it is the cheap answer for the usual case.
    """
    strides = a.stride()
    if strides != b.stride() or a.shape != b.shape or a.dtype != b.dtype:
        return False
    distance, rest = divmod(abs(b.data_ptr() - a.data_ptr()), a.element_size())
    # a block: all dims that reach less far than from a to b
    reach, step = 0, 0
    for stride, size in sorted(zip(strides, a.shape, strict=True)):
        if size > 1 and step == 0 and reach + stride * (size - 1) < distance:
            reach += stride * (size - 1)
        elif size > 1:
            step = step or stride
            if step == 0 or stride % step:
                return False
    return rest == 0 and step > 0 and reach < distance % step < step - reach


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


def require_writable(names: tuple[str, ...], tensors: tuple[Tensor | None, ...], destinations: int) -> None:
    """Refuse one of the first ``destinations`` tensors that overlaps itself or any of the others.

    Raises:
        ValueError: naming the destination and the tensor it overlaps. Nothing has been written.
    """
    library = native.cpu_library()
    # This settles most calls, at a fraction of the exact answer's cost.
    if library is None or not library.surely_apart(tensors, destinations):
        _require_no_overlap(names, tensors, destinations)


def _require_no_overlap(names: tuple[str, ...], tensors: tuple[Tensor | None, ...], destinations: int) -> None:
    given = [(name, x) for name, x in zip(names, tensors, strict=True) if x is not None]
    spans = [_span(x) for _, x in given]
    for index, (name, x) in enumerate(given[:destinations]):
        if overlaps_itself(x):
            raise ValueError(
                f"{name}: its elements overlap one another (shape {tuple(x.shape)}, strides {tuple(x.stride())}), "
                "so it cannot be written to; pass a tensor that is not expanded"
            )
        begin, end = spans[index]
        for other in range(index + 1, len(given)):
            other_begin, other_end = spans[other]
            if begin < other_end and other_begin < end and overlaps(x, given[other][1]):
                raise ValueError(f"{name}: shares memory with {given[other][0]}; pass buffers that do not overlap")


def mark_written(*tensors: Tensor) -> None:
    """Tell autograd that these tensors were written, which it does not see when a kernel writes through a pointer."""
    increment_version(tensors)
