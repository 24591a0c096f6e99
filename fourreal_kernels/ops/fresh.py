"""New tensors for operators to write their results into.

On the CPU the first write to a new page costs more than the arithmetic of the short axes. Memory of large results is
therefore kept when they are freed, and the next result of about that size is written there, as PyTorch does on CUDA.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils.dlpack import from_dlpack

from .. import native

_MIB = 1 << 20
# Smaller ones the C library hands out again without page faults, and a tensor from a capsule costs microseconds more.
_RECYCLED = 1 * _MIB
# Smaller tensors of torch mostly come from memory that was in use before, and have few pages anyway.
_LARGE = 8 * _MIB
_LIMIT_VARIABLE = "FOURREAL_KEPT_MIB"
_LARGEST_LIMIT = 1024 * _MIB
_SHARE_OF_MEMORY = 16
# DLPack's code and bits.
_DTYPES = {torch.float16: (2, 16), torch.bfloat16: (4, 16), torch.float32: (2, 32), torch.float64: (2, 64)}
# Transforms and modes of torch make or watch tensors of their own. A torch that does not tell is taken to have none on.
_TRANSFORM = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: None)
_MODES = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


def empty_like(x: Tensor) -> Tensor:
    """``torch.empty_like(x)``; on the CPU, a large one is written into memory that earlier results used.

    Where none is kept that fits, it is new memory that asks the system for huge pages: with pages of 2 MiB in place of
    4 KiB a new 75 MB tensor is filled in a third of the time. PyTorch does the same for all its tensors with
    ``THP_MEM_ALLOC_ENABLE=1``.

    The storage of a large result on the CPU cannot be resized, as that of a tensor from numpy: ``resize_`` to more
    elements raises RuntimeError. Its ``clone()`` is as any other tensor.

    Raises:
        ValueError: the environment variable ``FOURREAL_KEPT_MIB`` is no number of MiB.
    """
    if not x.is_cpu or x.nbytes < _RECYCLED or not _is_plain(x):
        return torch.empty_like(x)
    recycled = _recycled_like(x)
    return _with_huge_pages(torch.empty_like(x)) if recycled is None else recycled


def strides_like(x: Tensor) -> tuple[int, ...]:
    """The strides of ``torch.empty_like(x)``."""
    return x.stride() if x.is_contiguous() else torch.empty_like(x, device="meta").stride()


def release_kept_memory() -> int:
    """Give the memory of freed results that is kept on the CPU back to the system, as ``torch.cuda.empty_cache`` does.

    At most a sixteenth of the machine's memory and 1 GiB is kept. The environment variable ``FOURREAL_KEPT_MIB``, read
    at the first large result, sets another limit; 0 keeps none. When the system runs short of memory it may take what
    is kept in huge pages by itself.

    Returns:
        How many bytes were kept.
    """
    library = native.cpu_library()
    return 0 if library is None else library.release_kept()


def kept_bytes() -> int:
    """How many bytes of freed results are kept on the CPU."""
    library = native.cpu_library()
    return 0 if library is None else library.kept_bytes()


def _is_plain(x: Tensor) -> bool:
    return type(x) in (Tensor, Parameter) and x.dtype in _DTYPES and _TRANSFORM() is None and _MODES() == 0


def _recycled_like(x: Tensor) -> Tensor | None:
    library = _recycling_library()
    if library is None:
        return None
    capsule = library.recycled_tensor(x.shape, strides_like(x), _DTYPES[x.dtype])
    return None if capsule is None else from_dlpack(capsule)


def _with_huge_pages(new: Tensor) -> Tensor:
    library = native.cpu_library()
    if library is not None and new.nbytes >= _LARGE:
        library.prefer_huge_pages(new.data_ptr(), new.nbytes)
    return new


@cache
def _recycling_library() -> ModuleType | None:
    """The compiled library with its limit set; None where it is not built or the limit is 0."""
    library, limit = native.cpu_library(), _limit()
    if library is None or limit == 0:
        return None
    library.set_kept_limit(limit)
    return library


def _limit() -> int:
    named = os.environ.get(_LIMIT_VARIABLE)
    if named is None:
        return min(_physical_memory() // _SHARE_OF_MEMORY, _LARGEST_LIMIT)
    if not named.isascii() or not named.isdecimal():
        raise ValueError(
            f"{_LIMIT_VARIABLE}: got {named!r}, expected how many MiB of freed results may be kept, or 0 for none"
        )
    return min(int(named) * _MIB, sys.maxsize)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
