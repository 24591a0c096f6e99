"""Attention over whole frames by the Hopper kernel (compute capability 9.0): forward only, tensors in place.

The kernel copies boxes of the tensors by tensor maps, which take any order of the axes but not every stride. A call
with others is refused when it is made, as strides are no part of an :class:`AttentionCall`. The kernel has run in an
emulation of its instructions, not on a GPU.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from ... import native
from ...grid import Axes
from ..cuda_support import on_device, stream_of
from .call import AttentionCall

AXES = ("vn", "tn", "vn|tn")
_DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
_HEAD_DIMS = (64, 128)
_CAPABILITY = (9, 0)


def refusal(call: AttentionCall) -> str | None:
    if call.dtype not in _DTYPES:
        return f"its kernel of {str(call.axes)!r} takes float16 and bfloat16, the call is {_name(call.dtype)}"
    if call.shape[-1] not in _HEAD_DIMS:
        return f"its kernel of {str(call.axes)!r} takes head dims 64 and 128, got {call.shape[-1]}"
    if call.device.type == "cuda" and torch.cuda.get_device_capability(call.device) != _CAPABILITY:
        return f"its kernel of {str(call.axes)!r} needs compute capability 9.0 (Hopper)"
    return None


def forward(q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``.

    Raises:
        NotImplementedError: a tensor map cannot describe a tensor, or ``scale`` is negative.
    """
    tensors = _addresses(q, k, v, out, lse)
    _require_taken(q, str(axes), scale, tensors)
    with on_device(q):
        native.cuda_library().frame_attention_forward(
            _DTYPES[q.dtype], q.shape, str(axes), scale, tensors, stream_of(q)
        )


def forward_two_streams(
    view_qkv: tuple[Tensor, Tensor, Tensor], time_qkv: tuple[Tensor, Tensor, Tensor], scale: float,
    view_results: tuple[Tensor, Tensor], time_results: tuple[Tensor, Tensor],
) -> None:
    """Write out and lse of both streams, in one launch. Raises as :func:`forward`."""
    q = view_qkv[0]
    view, time = _addresses(*view_qkv, *view_results), _addresses(*time_qkv, *time_results)
    _require_taken(q, "vn", scale, view)
    _require_taken(q, "tn", scale, time)
    with on_device(q):
        native.cuda_library().frame_attention_forward_pair(
            _DTYPES[q.dtype], q.shape, ("vn", "tn"), scale, view, time, stream_of(q)
        )


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
) -> NoReturn:
    """There is none.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        f"backend: 'cuda' has no backward of axis_attention over {str(axes)!r}; call it under torch.no_grad(), or pass "
        f"backend=None or 'triton'"
    )


def _require_taken(q: Tensor, axes: str, scale: float, tensors: list[tuple[int, tuple[int, ...]]]) -> None:
    reason = native.cuda_library().frame_attention_refusal(_DTYPES[q.dtype], q.shape, axes, scale, tensors)
    if reason:
        raise NotImplementedError(
            f"backend: 'cuda' cannot run this axis_attention call over {axes!r}: {reason}. Pass backend=None."
        )


def _addresses(*tensors: Tensor) -> list[tuple[int, tuple[int, ...]]]:
    return [(x.data_ptr(), x.stride()) for x in tensors]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
