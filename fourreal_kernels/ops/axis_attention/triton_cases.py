"""The shipped configurations of the attention kernels, for the ahead-of-time tests.

Buckets: head dims up to 64, 128 and 256 in bf16, each compiled at its largest; up to 128 and 256 in IEEE fp32. Frame
lists of the union (view attention for both streams) whose tiles may touch two frames, with a tail: the most registers.
Extra tokens take the same configurations: each kernel at the head dims, of 64 and 128, that take the most registers.
Above 128 they are refused: in bf16 on sm_90 the forward kernel and that of dQ would spill.
"""

from __future__ import annotations

from typing import Any

from ...tuning import config
from ..triton_cases import CompileCase
from . import triton_backward, triton_backward_extra, triton_forward
from .triton_relation import block_of_head_dim, gradients_of

_KERNELS = {
    "attention_forward": triton_forward.attention_forward,
    "attention_two_streams": triton_forward.two_stream_forward,
    "attention_backward_rows": triton_backward.attention_backward_rows,
    "attention_backward_keys": triton_backward.attention_backward_keys,
    "attention_backward_queries": triton_backward.attention_backward_queries,
    "attention_backward_extra": triton_backward_extra.attention_backward_extra,
}
_STREAMS = ("grad_out", "grad_q", "grad_k", "grad_v", "extra_k", "extra_v")
_FP32_POINTERS = ("lse", "lse2", "grad_lse", "lse_base_2", "delta", "part_k", "part_v")
_EXTRA_ARGUMENTS = ("extra_k", "extra_v", "ek_b", "ek_n", "ek_h", "ev_b", "ev_n", "ev_h", "extra_tokens")
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
_WITH_EXTRA = [  # kernel, head dim, dtype
    ("attention_forward", 128, "bf16"), ("attention_backward_queries", 64, "bf16"),
    *((kernel, 128, dtype) for kernel in ("attention_backward_queries", "attention_backward_extra")
      for dtype in ("bf16", "fp32")),
    ("attention_forward", 128, "fp32"),
]
_WITH_DESCRIPTORS = ("sm_90", "sm_100", "sm_120")


def compile_cases(arch: str) -> list[CompileCase]:
    """One case per shipped configuration, some with extra tokens, the forward kernel with tensor descriptors where the
    chip has them.
    """
    cases = [
        _case(arch, *case, gradients=gradients) for case in _CASES for gradients in gradients_of(_options(arch, *case))
    ]
    if arch in _WITH_DESCRIPTORS:
        cases += [_case(arch, "attention_forward", head_dim, "bf16", _LONG, True) for head_dim in (64, 128)]
    return cases + [_case(arch, *case, _LONG, extra=True) for case in _WITH_EXTRA]


def _options(arch: str, kernel: str, head_dim: int, dtype: str, rows: int) -> dict[str, int]:
    name = "attention_backward_keys" if kernel == "attention_backward_extra" else kernel
    return config(name, arch=arch, head_dim=head_dim, length=rows, dtype_bytes=2 if dtype == "bf16" else 4)


def _case(
    arch: str, kernel: str, head_dim: int, dtype: str, rows: int, descriptors: bool = False, gradients: str = "both",
    extra: bool = False,
) -> CompileCase:
    options = _options(arch, kernel, head_dim, dtype, rows)
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    fn = _KERNELS[kernel]
    constants: dict[str, Any] = {
        "FRAMES": "union", "TOKENS": True, "SPAN": "two", "WIDE": False, "TAIL": True, "NEGATIVE": False,
        "PRECISION": "ieee", "HEAD_DIM": head_dim, "BLOCK_D": block_of_head_dim(head_dim),
        "UNIT": 8 if dtype == "bf16" else 4, "GRADIENTS": gradients, "row_n": 1, **options,
    }
    if "DESCRIPTORS" in options:
        constants["DESCRIPTORS"] = descriptors
    if descriptors:
        constants |= {"SPAN": "one", "TAIL": False}
    if not extra:
        constants |= dict.fromkeys(_EXTRA_ARGUMENTS)
    constants = {name: value for name, value in constants.items() if name in fn.arg_names}
    signature = {name: _type(name, dtype) for name in fn.arg_names if name not in constants}
    divisible = tuple(name for name, kind in signature.items() if kind.startswith("*"))
    if descriptors:
        signature |= dict.fromkeys(("k", "v"), f"tensordesc<{dtype}[1,1,1,{options['BLOCK_K']},{head_dim}]>")
        divisible = tuple(name for name in divisible if name not in ("k", "v"))
    return CompileCase(
        f"{kernel} D={head_dim} {dtype} rows={rows}{' descriptors' if descriptors else ''}"
        f"{' extra' if extra else ''}{'' if gradients == 'both' else ' ' + gradients}",
        fn, signature, constants, warps, stages, divisible,
    )


def _type(name: str, dtype: str) -> str:
    if name in _FP32_POINTERS:
        return "*fp32"
    if name.rstrip("2") in ("q", "k", "v", "out") or name in _STREAMS:
        return f"*{dtype}"
    return "fp32" if name in ("scale", "natural_scale") else "i32"
