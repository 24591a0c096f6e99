"""What the compiled CUDA backends of the operators share: where they can run, and on which stream.

The backends reach these functions, and ``native.cuda_library``, through their modules at each call: tests replace them
to run the kernels on the host.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .. import native

_OLDEST_CAPABILITY = (8, 0)


def why_unavailable() -> str | None:
    """Why no compiled CUDA kernel can run in this process, or None: not built, or no device, in CUDA's words."""
    library = native.cuda_library()
    if library is None:
        return native.why_missing("cuda")
    return library.why_no_device() or None


def refuse_device(call: Any) -> str | None:
    """Why the kernels cannot run on ``call.device``, or None. Asked after :func:`why_unavailable`."""
    if call.device.type != "cuda":
        return f"it runs on cuda, the call is on {call.device.type}"
    if _capability(call.device) < _OLDEST_CAPABILITY:
        major, minor = _capability(call.device)
        return f"its kernels need compute capability 8.0 or newer, {call.device} has {major}.{minor}"
    return None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def on_device(x: Tensor) -> AbstractContextManager:
    """A kernel is launched on the current device: make it that of ``x``."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def stream_of(x: Tensor) -> int:
    """The current stream of ``x``'s device, as a ``cudaStream_t``; 0 for a CPU tensor."""
    return torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
