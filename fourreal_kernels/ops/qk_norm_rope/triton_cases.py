"""The shipped configurations of QK-norm and rotary embedding, for the ahead-of-time tests.

Buckets: head dims 40, 64 and 128 in bf16, 64 in fp32, and 64 in bf16 whose rows do not start at multiples of 16 bytes.
Angles are in fp32; norm and rotation are both on.
"""

from __future__ import annotations

from ...tuning import config
from ..triton_access import power_of_two
from ..triton_cases import CompileCase
from . import triton_kernels as kernels

_BUCKETS = ((40, "bf16", 8), (64, "bf16", 8), (128, "bf16", 8), (64, "fp32", 4), (64, "bf16", 1))
_STREAMS = {
    "qk_norm_rope": ("q_ptr", "k_ptr", "out_q_ptr", "out_k_ptr"),
    "qk_norm_rope_backward": ("grad_q_ptr", "grad_k_ptr", "q_ptr", "k_ptr", "dq_ptr", "dk_ptr"),
}
_WEIGHTS = ("q_weight_ptr", "k_weight_ptr")


def compile_cases(arch: str) -> list[CompileCase]:
    """One case per kernel and bucket."""
    return [_case(kernel, arch, *bucket) for kernel in _STREAMS for bucket in _BUCKETS]


def _case(kernel: str, arch: str, head_dim: int, dtype: str, unit: int) -> CompileCase:
    backward = kernel == "qk_norm_rope_backward"
    options = config(kernel, arch=arch, head_dim=head_dim, dtype_bytes=2 if dtype == "bf16" else 4)
    block_d = power_of_two(head_dim)
    constants = {"D": head_dim, "BLOCK_D": block_d, "ROWS": options.pop("ELEMENTS") // block_d, "UNIT": unit,
                 "NORM": True, "ROPE": True, "ANGLE_UNIT": 4 if unit > 1 else 1}
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    pointers = dict.fromkeys((*_STREAMS[kernel], *_WEIGHTS), f"*{dtype}")
    pointers |= dict.fromkeys(("cos_ptr", "sin_ptr", *(("partial_ptr",) if backward else ())), "*fp32")
    integers = kernels.BACKWARD_INTEGERS if backward else kernels.FORWARD_INTEGERS
    signature = {**pointers, "eps": "fp32", **dict.fromkeys(integers, "i32")}
    return CompileCase(
        f"{kernel} D={head_dim} {dtype} unit={unit}",
        kernels.backward_kernel if backward else kernels.forward_kernel,
        signature, {**constants, **options}, warps, stages, divisible=tuple(pointers),
    )
