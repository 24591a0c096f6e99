"""What the Triton backends of the operators share: where they can run, and the name of the chip.

Importing this module imports neither Triton nor queries a device.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

INTERPRETER = "interpreter"
_OLDEST_TRITON = (3, 6)
_OLDEST_CAPABILITY = (8, 0)


@cache
def interpreting() -> bool:
    """Whether kernels run under Triton's interpreter, on CPU tensors: ``TRITON_INTERPRET=1`` at start."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@cache
def why_unavailable() -> str | None:
    """Why no Triton kernel can run in this process, or None."""
    if find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if not interpreting() and not torch.cuda.is_available():
        return "no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, to test them)"
    import triton

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < _OLDEST_TRITON:
        return f"triton {triton.__version__} is too old: {'.'.join(map(str, _OLDEST_TRITON))} or newer is needed"
    return None


@cache
def arch_of(device: torch.device) -> str:
    """The chip as the tuning data name it: ``"sm_90"``, or ``"interpreter"``."""
    if interpreting():
        return INTERPRETER
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def refuse_device(call: Any) -> str | None:
    """Why the Triton backends cannot run on ``call.device``, or None. Asked after :func:`why_unavailable`."""
    wanted = "cpu" if interpreting() else "cuda"
    if call.device.type != wanted:
        here = " under TRITON_INTERPRET=1" if interpreting() else ""
        return f"it runs on {wanted}{here}, the call is on {call.device.type}"
    if wanted == "cuda" and _capability(call.device) < _OLDEST_CAPABILITY:
        major, minor = _capability(call.device)
        return f"its kernels need compute capability 8.0 or newer, {call.device} has {major}.{minor}"
    return None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
