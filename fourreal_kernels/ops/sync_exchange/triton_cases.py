"""The shipped configurations of the exchange, for the ahead-of-time tests.

Buckets: 1024 channels in bf16 and fp32, 320 in bf16, and 1024 in bf16 at rows that do not start at multiples of 16
bytes; soft, with bias, input_scale and gate.
"""

from __future__ import annotations

from ...tuning import config
from ..triton_cases import CompileCase
from . import triton_channel_kernels as channel

_BUCKETS = ((1024, "bf16", 8), (320, "bf16", 8), (1024, "fp32", 4), (1024, "bf16", 1))
_STREAMS = {
    "sync_exchange": ("view_ptr", "time_ptr", "out_view_ptr", "out_time_ptr"),
    "sync_exchange_backward": (
        "grad_view_ptr", "grad_time_ptr", "view_ptr", "time_ptr", "d_view_ptr", "d_time_ptr"
    ),
}
_PARAMETERS = {
    "sync_exchange": ("weight_ptr", "bias_ptr", "scale_ptr", "gate_ptr"),
    "sync_exchange_backward": ("weight_ptr", "scale_ptr", "gate_ptr"),
}
_FUNCTIONS = {
    "sync_exchange": (channel.forward_kernel, channel.FORWARD_INTEGERS),
    "sync_exchange_backward": (channel.backward_kernel, channel.BACKWARD_INTEGERS),
}


def compile_cases(arch: str) -> list[CompileCase]:
    """One case per kernel and bucket."""
    return [_channel_case(kernel, arch, *bucket) for kernel in _FUNCTIONS for bucket in _BUCKETS]


def _channel_case(kernel: str, arch: str, channels: int, dtype: str, unit: int) -> CompileCase:
    options = config(kernel, arch=arch, length=channels, dtype_bytes=2 if dtype == "bf16" else 4)
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    function, integers = _FUNCTIONS[kernel]
    pointers = dict.fromkeys((*_STREAMS[kernel], *_PARAMETERS[kernel]), f"*{dtype}")
    if kernel == "sync_exchange_backward":
        pointers["partial_ptr"] = "*fp32"
    return CompileCase(
        f"{kernel} C={channels} {dtype} unit={unit}", function, {**pointers, **dict.fromkeys(integers, "i32")},
        {"C": channels, "HARD": False, "UNIT": unit, **options}, warps, stages, divisible=tuple(pointers),
    )
