"""The shipped configurations of the exchange, for the ahead-of-time tests.

Buckets: 1024 channels in bf16 and fp32, 320 in bf16, and 1024 in bf16 at rows that do not start at multiples of 16
bytes; soft, with bias, input_scale and gate. The passes around the GEMM of the dense form: 1024 channels in bf16.
"""

from __future__ import annotations

from ...tuning import config
from ..triton_cases import CompileCase
from . import triton_channel_kernels as channel
from . import triton_dense_kernels as dense

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
    per_channel = [_channel_case(kernel, arch, *bucket) for kernel in _FUNCTIONS for bucket in _BUCKETS]
    return [*per_channel, _stage_case(arch), _finish_case(arch)]


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


def _dense_case(name: str, arch: str, function, pointers: tuple[str, ...], integers: tuple[str, ...],
                constants: dict) -> CompileCase:
    options = config("sync_exchange_dense", arch=arch, length=1024)
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    return CompileCase(
        f"sync_exchange_dense {name} C=1024 bf16", function,
        {**dict.fromkeys(pointers, "*bf16"), **dict.fromkeys(integers, "i32")},
        {"C": 1024, "UNIT": 8, **constants, **options}, warps, stages, divisible=pointers,
    )


def _stage_case(arch: str) -> CompileCase:
    pointers = ("view_ptr", "time_ptr", "view_branch_ptr", "time_branch_ptr", "branch_gate_ptr", "scale_ptr",
                "staged_ptr")
    return _dense_case("stage", arch, dense.stage_kernel, pointers, dense.STAGE_INTEGERS, {"ADD": False})


def _finish_case(arch: str) -> CompileCase:
    pointers = ("mixed_ptr", "view_ptr", "time_ptr", "out_view_ptr", "out_time_ptr", "bias_ptr", "gate_ptr")
    return _dense_case("finish", arch, dense.finish_kernel, pointers, dense.FINISH_INTEGERS,
                       {"HARD": False, "RESIDUAL": True})
