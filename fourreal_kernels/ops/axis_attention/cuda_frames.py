"""Attention over whole frames by the Hopper kernels (compute capability 9.0), tensors in place.

The kernels copy boxes of the tensors by tensor maps, which take any order of the axes but not every stride. A call
with others is refused when it is made, as strides are no part of an :class:`AttentionCall`. The kernels have run in an
emulation of their instructions, not on a GPU.
"""

from __future__ import annotations

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
_ABSENT: tuple[int, tuple[int, ...]] = (0, ())


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
) -> None:
    """Write dq, dk, dv into ``grads``. A ``grad_out`` that no tensor map describes, an expanded one, is copied.

    Raises:
        NotImplementedError: as :func:`forward`.
    """
    library = native.cuda_library()
    call = (_DTYPES[q.dtype], q.shape, str(axes), scale)
    grad_lse_or_none = _ABSENT if grad_lse is None else _addresses(grad_lse)[0]

    def tensors(grad: Tensor) -> list[tuple[int, tuple[int, ...]]]:
        return [*_addresses(grad), grad_lse_or_none, *_addresses(q, k, v, out, lse, *grads)]

    if library.frame_attention_backward_refusal(*call, tensors(grad_out)):
        grad_out = grad_out.clone(memory_format=torch.contiguous_format)
    arguments = tensors(grad_out)
    _require(library.frame_attention_backward_refusal(*call, arguments), str(axes))
    with on_device(q):
        scratch = torch.empty(library.frame_attention_backward_floats(q.shape), dtype=torch.float32, device=q.device)
        library.frame_attention_backward(*call, arguments, scratch.data_ptr(), stream_of(q))


def _require_taken(q: Tensor, axes: str, scale: float, tensors: list[tuple[int, tuple[int, ...]]]) -> None:
    _require(native.cuda_library().frame_attention_refusal(_DTYPES[q.dtype], q.shape, axes, scale, tensors), axes)


def _require(reason: str, axes: str) -> None:
    """``reason``: why the kernels do not take a call, empty if they do."""
    if reason:
        raise NotImplementedError(
            f"backend: 'cuda' cannot run this axis_attention call over {axes!r}: {reason}. Pass backend=None."
        )


def _addresses(*tensors: Tensor) -> list[tuple[int, tuple[int, ...]]]:
    return [(x.data_ptr(), x.stride()) for x in tensors]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
