"""The shipped configurations of the fused exchange, for the ahead-of-time tests.

Buckets: every range of channel counts of the configurations, at its largest count that is a multiple of 256 (320 in
the lowest one), in bf16; the middle one in fp32, and at rows that do not start at multiples of 16 bytes; soft, with
every optional argument. The dense form of 1024 channels in bf16.
"""

from __future__ import annotations

from ...tuning import config
from ..triton_access import power_of_two
from ..triton_cases import CompileCase
from .triton_kernels import INTEGERS, STREAMS, forward_kernel

_BUCKETS = (
    (320, "bf16", 8, False), (1024, "bf16", 8, False), (1024, "bf16", 8, True), (1024, "bf16", 1, False),
    (1024, "fp32", 4, False), (2048, "bf16", 8, False), (3072, "bf16", 8, False), (8192, "bf16", 8, False),
)
_PARAMETERS = ("weight_ptr", "bias_ptr", "scale_ptr", "gate_ptr", "branch_gate_ptr", "norm_scale_ptr",
               "norm_shift_ptr")


def compile_cases(arch: str) -> list[CompileCase]:
    """One case per bucket."""
    return [_case(arch, *bucket) for bucket in _BUCKETS]


def _case(arch: str, channels: int, dtype: str, unit: int, dense: bool) -> CompileCase:
    options = config("sync_exchange_norm", arch=arch, length=channels, dtype_bytes=2 if dtype == "bf16" else 4)
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    names = (*(f"{name}_ptr" for name in STREAMS), *_PARAMETERS, "mixed_ptr")
    absent = ("weight_ptr", "scale_ptr") if dense else ("mixed_ptr",)
    pointers = {name: f"*{dtype}" for name in names if name not in absent}
    constants = {"C": channels, "HARD": False, "UNIT": unit, "BLOCK_C": power_of_two(channels), **options}
    return CompileCase(
        f"sync_exchange_norm C={channels} {dtype} unit={unit}{' dense' if dense else ''}", forward_kernel,
        {**pointers, "eps": "fp32", **dict.fromkeys(INTEGERS, "i32")}, {**constants, **dict.fromkeys(absent)},
        warps, stages, divisible=tuple(pointers),
    )
