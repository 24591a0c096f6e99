"""The shipped configurations of the attention kernels, for the ahead-of-time tests and for ``fourreal tune``.

Buckets: head dims up to 64, 128 and 256 in bf16, each compiled at its largest; up to 128 and 256 in IEEE fp32. Frame
lists of the union (view attention for both streams) whose tiles may touch two frames, with a tail: the most registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...tuning import config
from ..triton_cases import CompileCase, TuneTask
from . import triton_backward, triton_forward, triton_launch
from .triton_relation import Relation, block_of_head_dim

_KERNELS = {
    "attention_forward": triton_forward.attention_forward,
    "attention_two_streams": triton_forward.two_stream_forward,
    "attention_backward_rows": triton_backward.attention_backward_rows,
    "attention_backward_keys": triton_backward.attention_backward_keys,
    "attention_backward_queries": triton_backward.attention_backward_queries,
}
_FP32_POINTERS = ("lse", "lse2", "grad_lse", "lse_base_2", "delta")
_LONG, _SHORT = 4096, 64
_CASES = [  # kernel, head dim, dtype, rows that share a frame list
    *(("attention_forward", head_dim, "bf16", rows) for head_dim in (64, 128) for rows in (_LONG, _SHORT)),
    ("attention_forward", 256, "bf16", _LONG),
    *(("attention_forward", head_dim, "fp32", _LONG) for head_dim in (128, 256)),
    *(("attention_two_streams", *bucket, _LONG)
      for bucket in ((64, "bf16"), (128, "bf16"), (256, "bf16"), (256, "fp32"))),
    *(("attention_backward_rows", head_dim, "bf16", _LONG) for head_dim in (128, 256)),
    *(
        (kernel, *bucket, _LONG)
        for kernel in ("attention_backward_keys", "attention_backward_queries")
        for bucket in ((64, "bf16"), (128, "bf16"), (256, "bf16"), (128, "fp32"), (256, "fp32"))
    ),
]
_WITH_DESCRIPTORS = ("sm_90", "sm_100", "sm_120")


def compile_cases(arch: str) -> list[CompileCase]:
    """One case per shipped configuration, and the forward kernel with tensor descriptors where the chip has them."""
    cases = [_case(arch, *case) for case in _CASES]
    if arch in _WITH_DESCRIPTORS:
        cases += [_case(arch, "attention_forward", head_dim, "bf16", _LONG, True) for head_dim in (64, 128)]
    return cases


def _case(arch: str, kernel: str, head_dim: int, dtype: str, rows: int, descriptors: bool = False) -> CompileCase:
    options = config(kernel, arch=arch, head_dim=head_dim, length=rows, dtype_bytes=2 if dtype == "bf16" else 4)
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    fn = _KERNELS[kernel]
    constants: dict[str, Any] = {
        "FRAMES": "union", "TOKENS": True, "SPAN": "two", "WIDE": False, "TAIL": True, "NEGATIVE": False,
        "PRECISION": "ieee", "HEAD_DIM": head_dim, "BLOCK_D": block_of_head_dim(head_dim),
        "UNIT": 8 if dtype == "bf16" else 4, "row_n": 1, **options,
    }
    if "DESCRIPTORS" in options:
        constants["DESCRIPTORS"] = descriptors
    if descriptors:
        constants |= {"SPAN": "one", "TAIL": False}
    constants = {name: value for name, value in constants.items() if name in fn.arg_names}
    signature = {name: _type(name, dtype) for name in fn.arg_names if name not in constants}
    divisible = tuple(name for name, kind in signature.items() if kind.startswith("*"))
    if descriptors:
        signature |= dict.fromkeys(("k", "v"), f"tensordesc<{dtype}[1,1,1,{options['BLOCK_K']},{head_dim}]>")
        divisible = tuple(name for name in divisible if name not in ("k", "v"))
    return CompileCase(
        f"{kernel} D={head_dim} {dtype} rows={rows}{' descriptors' if descriptors else ''}",
        fn, signature, constants, warps, stages, divisible,
    )


def _type(name: str, dtype: str) -> str:
    if name in _FP32_POINTERS:
        return "*fp32"
    if name.rstrip("2") in ("q", "k", "v", "out") or name in ("grad_out", "grad_q", "grad_k", "grad_v"):
        return f"*{dtype}"
    return "fp32" if name in ("scale", "natural_scale") else "i32"


_GRIDS = {64: (1, 8, 8, 576, 16, 64), 128: (1, 8, 8, 576, 8, 128)}
_HEAD_DIMS = {64: (33, 64), 128: (65, 128)}
_ROWS = (65, 2**31 - 1)


def tuning_candidates(arch: str) -> list[TuneTask]:
    """The kernels of view attention on the grid of the 4Real-Video paper, in bf16, at head dims 64 and 128."""
    return [
        TuneTask(kernel, _HEAD_DIMS[head_dim], _ROWS, 2, _candidates(arch, kernel), _launcher(kernel, head_dim))
        for kernel in ("attention_forward", "attention_backward_keys", "attention_backward_queries")
        for head_dim in _GRIDS
    ]


def _candidates(arch: str, kernel: str) -> list[dict[str, int]]:
    sizes = [(128, 128), (128, 64), (128, 32), (64, 64), (64, 32)]
    if kernel == "attention_backward_keys":
        sizes = [(inner, outer) for outer, inner in sizes]
    candidates = [
        {"BLOCK_Q": q, "BLOCK_K": k, "num_warps": warps, "num_stages": stages}
        for q, k in sizes for warps in (4, 8) for stages in (1, 2, 3, 4)
    ]
    if kernel != "attention_forward":
        return candidates
    copies = (0, 1) if arch in _WITH_DESCRIPTORS else (0,)
    return [{**candidate, "DESCRIPTORS": descriptors} for candidate in candidates for descriptors in copies]


def _launcher(kernel: str, head_dim: int) -> Callable[[], Callable[[dict[str, int]], None]]:
    def make() -> Callable[[dict[str, int]], None]:
        relation = Relation("views", False, True)
        scale = head_dim**-0.5
        q, k, v, grad_out = (
            torch.randn(_GRIDS[head_dim], device="cuda", dtype=torch.bfloat16) for _ in range(4)
        )
        out, grad = torch.empty_like(q), torch.empty_like(q)
        lse = torch.empty(q.shape[:5], device="cuda")
        if kernel == "attention_forward":
            return lambda options: triton_launch.launch_forward(relation, [q, k, v, out, lse], scale, options)
        shipped = triton_launch.configuration("attention_forward", relation, q)
        triton_launch.launch_forward(relation, [q, k, v, out, lse], scale, shipped)
        shipped = triton_launch.configuration("attention_backward_rows", relation, q)
        inputs = [q, k, v, grad_out, *triton_launch.launch_rows(relation, out, grad_out, lse, None, shipped)]
        if kernel == "attention_backward_keys":
            return lambda options: triton_launch.launch_keys(relation, [*inputs, out, grad], scale, options)
        return lambda options: triton_launch.launch_queries(relation, [*inputs, grad], scale, options)

    return make
