"""Axis attention by the compiled CPU kernels: true strides, no copies, the union in one softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import native
from ...grid import Axes
from ..checks import unit_stride_gradient
from .call import AttentionCall, KeyValue

_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_UNIONS = ("vn|tn", "v|t")
_LARGEST_HEAD_DIM = 256
LSE_IS_OPTIONAL = True
"""``forward`` takes None for it."""


def unavailable() -> str | None:
    return None if native.cpu_library() else native.why_missing("cpu")


def refusal(call: AttentionCall) -> str | None:
    if call.device.type != "cpu":
        return f"it runs on cpu, the call is on {call.device.type}"
    if call.dtype not in _DTYPES:
        return f"its kernels compute in float32, the call is {str(call.dtype).removeprefix('torch.')}"
    if call.shape[-1] > _LARGEST_HEAD_DIM:
        return f"its kernels take head dims up to {_LARGEST_HEAD_DIM}, got {call.shape[-1]}"
    if call.axes.is_union and str(call.axes) not in _UNIONS:
        return f"of the unions its kernels take {' and '.join(map(repr, _UNIONS))}, the call is {str(call.axes)!r}"
    if call.extra and call.shape[3] > 1 and not all("n" in group for group in call.axes.groups):
        return f"its kernels take extra_k and extra_v where every group of axes has n, the call is {str(call.axes)!r}"
    return None


def forward(
    q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor | None,
    extra: KeyValue | None = None,
) -> None:
    """Write the attention output and, where it is wanted, its log-sum-exp into ``out`` and ``lse``."""
    native.cpu_library().axis_attention_forward(
        _DTYPES[q.dtype], q.shape, str(axes), scale, (q, k, v, out, lse), **_extra(extra)
    )


def forward_two_streams(
    view_qkv: tuple[Tensor, Tensor, Tensor], time_qkv: tuple[Tensor, Tensor, Tensor], scale: float,
    view_results: tuple[Tensor, Tensor], time_results: tuple[Tensor, Tensor],
) -> None:
    """Write out and lse of both streams, in one parallel region."""
    q = view_qkv[0]
    native.cpu_library().axis_attention_forward_pair(
        _DTYPES[q.dtype], q.shape, ("vn", "tn"), scale, (*view_qkv, *view_results), (*time_qkv, *time_results)
    )


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
    extra: KeyValue | None = None, extra_grads: KeyValue | None = None,
) -> None:
    """Write dq, dk, dv into ``grads``, those of the extra keys and values into ``extra_grads``."""
    grad_out = unit_stride_gradient(grad_out)
    tensors = (grad_out, grad_lse, q, k, v, out, lse, *grads)
    native.cpu_library().axis_attention_backward(
        _DTYPES[q.dtype], q.shape, str(axes), scale, tensors, **_extra(extra, extra_grads)
    )


def _extra(extra: KeyValue | None, extra_grads: KeyValue | None = None) -> dict[str, Any]:
    """Arguments of the library for the extra tokens."""
    if extra is None:
        return {}
    return {"extra_tokens": extra[0].shape[1], "extra": (*extra, *(extra_grads or ()))}
