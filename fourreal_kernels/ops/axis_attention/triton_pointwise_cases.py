"""The shipped configurations of the pointwise kernels, for the ahead-of-time tests.

Buckets: head dims 40, 64 and 128 in bf16, and 64 in bf16 whose rows do not start at multiples of 16 bytes; the
last one forward only; the union ``"v|t"`` of eight views and eight timesteps (the other axes leave out one comparison).
"""

from __future__ import annotations

from ...tuning import config
from ..triton_cases import CompileCase
from . import triton_pointwise_kernels as kernels
from .triton_pointwise import ROWS, UNALIGNED_WARPS
from .triton_relation import block_of_head_dim

_BUCKETS = ((40, "bf16", 8), (64, "bf16", 8), (128, "bf16", 8), (64, "bf16", 1))
_FUNCTIONS = {
    "pointwise_forward": (
        kernels.forward_kernel, kernels.FORWARD_INTEGERS, ("q_ptr", "k_ptr", "v_ptr", "out_ptr"), ("lse_ptr",),
    ),
    "pointwise_backward": (
        kernels.backward_kernel, kernels.BACKWARD_INTEGERS,
        ("grad_out_ptr", "q_ptr", "k_ptr", "v_ptr", "out_ptr", "dq_ptr", "dk_ptr", "dv_ptr"),
        ("lse_ptr", "grad_lse_ptr"),
    ),
}


def compile_cases(arch: str) -> list[CompileCase]:
    """One case per kernel and bucket."""
    cases = [(kernel, *bucket) for kernel in _FUNCTIONS for bucket in _BUCKETS]
    return [_case(kernel, arch, *bucket) for kernel, *bucket in cases if kernel == "pointwise_forward" or bucket[2] > 1]


def _case(kernel: str, arch: str, head_dim: int, dtype: str, unit: int) -> CompileCase:
    function, integers, streams, rows = _FUNCTIONS[kernel]
    options = config(kernel, arch=arch, head_dim=head_dim, dtype_bytes=2)
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    if unit == 1:
        warps = max(UNALIGNED_WARPS, warps)
    pointers = dict.fromkeys(streams, f"*{dtype}") | dict.fromkeys(rows, "*fp32")
    constants = {"D": head_dim, "BLOCK_D": block_of_head_dim(head_dim), "UNIT": unit, "UNION": True,
                 "ROWS": ROWS, "LINES": 1, "INNER": 8}
    return CompileCase(
        f"{kernel} D={head_dim} {dtype} unit={unit}", function,
        {**pointers, "scale": "fp32", **dict.fromkeys(integers, "i32")}, {**constants, **options}, warps, stages,
        divisible=tuple(pointers),
    )
