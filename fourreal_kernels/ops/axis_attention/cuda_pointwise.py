"""The pointwise axes by CUDA kernels that read q, k, v once and write the results once.

A block holds whole sequences in shared memory. Sequences that do not fit (from 128 entries on, depending on head dim,
dtype and device) go to a kernel that reads rows again for each query; every length is computed.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ... import native
from ...grid import Axes
from ..cuda_support import on_device, stream_of
from .call import AttentionCall

_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_LARGEST_HEAD_DIM = 256
_SHARED_BYTES_OF_SM_90 = 232_448
_ABSENT: tuple[int, tuple[int, ...]] = (0, ())


def refusal(call: AttentionCall) -> str | None:
    if not call.axes.is_pointwise:
        return f"its kernels take the axes 'v', 't', 'vt' and 'v|t', the call is {str(call.axes)!r}"
    if call.dtype not in _DTYPES:
        return f"its kernels compute in float32, the call is {str(call.dtype).removeprefix('torch.')}"
    if call.shape[-1] > _LARGEST_HEAD_DIM:
        return f"its kernels take head dims up to {_LARGEST_HEAD_DIM}, got {call.shape[-1]}"
    return None


@cache
def shared_bytes(device: torch.device) -> int:
    """The most shared memory that a block may have; on the host, where tests run the kernels, that of sm_90."""
    if device.type != "cuda":
        return _SHARED_BYTES_OF_SM_90
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


def forward(q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``."""
    tensors = [_address(x) for x in (q, k, v, out, lse)]
    with on_device(q):
        native.cuda_library().pointwise_attention_forward(
            _DTYPES[q.dtype], q.shape, str(axes), scale, tensors, shared_bytes(q.device), stream_of(q)
        )


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write dq, dk, dv into ``grads``. ``grad_out`` has a contiguous last dim."""
    absent_or_given = _ABSENT if grad_lse is None else _address(grad_lse)
    tensors = [_address(grad_out), absent_or_given, *(_address(x) for x in (q, k, v, out, lse, *grads))]
    with on_device(q):
        native.cuda_library().pointwise_attention_backward(
            _DTYPES[q.dtype], q.shape, str(axes), scale, tensors, shared_bytes(q.device), stream_of(q)
        )


def _address(x: Tensor) -> tuple[int, tuple[int, ...]]:
    return x.data_ptr(), x.stride()
