"""Peak memory of one call, as the system sees it: whoever allocates it, native kernels included."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from fourreal_kernels import release_kept_memory

_Result = TypeVar("_Result")
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): resets the peak resident set size to the present one


def peak_bytes(run: Callable[[], _Result], device: torch.device) -> tuple[_Result, int | None]:
    """Run once and measure by how much the memory in use rises above that before the call.

    A result in fresh memory counts, inputs and outputs that were given do not. On the CPU it is the rise of the peak
    resident set size, after free memory that the allocators hold was returned to the system.

    Returns:
        The result, and the bytes or None where the system does not tell.
    """
    if device.type == "cuda":
        return _peak_cuda(run, device)
    gc.collect()
    _release_free_memory()
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return run(), None
    before = _status_bytes("VmRSS")
    result = run()
    return result, max(0, _status_bytes("VmHWM") - before)


def _peak_cuda(run: Callable[[], _Result], device: torch.device) -> tuple[_Result, int]:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run()
    torch.cuda.synchronize(device)
    return result, torch.cuda.max_memory_allocated(device) - before


def _release_free_memory() -> None:
    release_kept_memory()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # another C library: free memory that it holds may hide an allocation


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
