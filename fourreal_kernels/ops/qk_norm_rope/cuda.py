"""QK-norm and rotary embedding by the compiled CUDA kernels: q and k in one launch, forward and backward.

Kernels run asynchronously on the current stream. Converted parameters and scratch may be freed before they have run:
the caching allocator reuses memory in stream order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ... import native
from .. import cuda_support
from ..checks import copy_back, unit_stride_gradient, unit_stride_like
from . import compiled
from .call import NormRopeCall

_LARGEST_HEAD_DIM = 256
_ROWS = 2**31


def unavailable() -> str | None:
    return cuda_support.why_unavailable()


def refusal(call: NormRopeCall) -> str | None:
    if reason := cuda_support.refuse_device(call):
        return reason
    if call.dtype not in compiled.DTYPES:
        return f"its arithmetic is in float32, the call is in {str(call.dtype).removeprefix('torch.')}"
    if call.shape[-1] > _LARGEST_HEAD_DIM:
        return f"its kernels take head dims up to {_LARGEST_HEAD_DIM}, got {call.shape[-1]}"
    if math.prod(call.shape[:-1]) >= _ROWS:
        return f"its kernels number the heads of all tokens in 31 bits, got {math.prod(call.shape[:-1])}"
    return None


def forward(
    q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, cos: Tensor | None, sin: Tensor | None,
    eps: float, out_q: Tensor, out_k: Tensor,
) -> None:
    """Write the normalised and rotated ``q`` and ``k`` into ``out_q`` and ``out_k``, which may be ``q`` and ``k``."""
    q_weight, k_weight = compiled.parameter(q_weight), compiled.parameter(k_weight)
    cos, sin = _angles(cos), _angles(sin)
    written_q, written_k = unit_stride_like(out_q), unit_stride_like(out_k)
    with cuda_support.on_device(q):
        native.cuda_library().qk_norm_rope(
            *map(compiled.grid, (q, k, written_q, written_k)), compiled.DTYPES[q.dtype], q.shape,
            compiled.address(q_weight), compiled.address(k_weight),
            compiled.broadcastable(cos), compiled.broadcastable(sin), _angle_dtype(cos), eps,
            stream=cuda_support.stream_of(q),
        )
    copy_back(written_q, out_q)
    copy_back(written_k, out_k)


def backward(
    grad_q: Tensor, grad_k: Tensor, q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None,
    cos: Tensor | None, sin: Tensor | None, eps: float, dq: Tensor, dk: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """Write the gradients of ``q`` and ``k`` into ``dq`` and ``dk``; return those of the weights in fp32."""
    library = native.cuda_library()
    q_weight, k_weight = compiled.parameter(q_weight), compiled.parameter(k_weight)
    cos, sin = _angles(cos), _angles(sin)
    grad_q, grad_k = unit_stride_gradient(grad_q), unit_stride_gradient(grad_k)
    written_q, written_k = unit_stride_like(dq), unit_stride_like(dk)
    dq_weight, dk_weight = (None if weight is None else torch.empty_like(weight) for weight in (q_weight, k_weight))
    partials = None if q_weight is None else _partials(library, q)
    with cuda_support.on_device(q):
        library.qk_norm_rope_backward(
            *map(compiled.grid, (grad_q, grad_k, q, k, written_q, written_k)), compiled.DTYPES[q.dtype], q.shape,
            *map(compiled.address, (q_weight, k_weight, dq_weight, dk_weight, partials)),
            compiled.broadcastable(cos), compiled.broadcastable(sin), _angle_dtype(cos), eps,
            stream=cuda_support.stream_of(q),
        )
    copy_back(written_q, dq)
    copy_back(written_k, dk)
    return dq_weight, dk_weight


def _angles(x: Tensor | None) -> Tensor | None:
    """As they are in every dtype that the kernels read, else in fp32."""
    return x if x is None or x.dtype in compiled.DTYPES else compiled.angles(x)


def _angle_dtype(x: Tensor | None) -> str:
    return compiled.DTYPES[torch.float32 if x is None else x.dtype]


def _partials(library, q: Tensor) -> Tensor:
    """Scratch of at most 2048 rows in which the gradients of the weights are added up in a fixed order."""
    rows = library.qk_norm_rope_backward_partials(q.shape)
    return torch.empty(rows, 2, q.shape[-1], dtype=torch.float32, device=q.device)
