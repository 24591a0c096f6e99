"""QK-norm and rotary embedding by Triton kernels: q and k in one launch, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import contiguous_parameter, copy_back, unit_stride_gradient, unit_stride_like
from ..triton_access import on_device
from ..triton_support import refuse_device, why_unavailable
from .call import NormRopeCall

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LARGEST_HEAD_DIM = 1024


def unavailable() -> str | None:
    return why_unavailable()


def refusal(call: NormRopeCall) -> str | None:
    if reason := refuse_device(call):
        return reason
    if call.dtype not in _DTYPES:
        return f"its arithmetic is in float32, the call is in {str(call.dtype).removeprefix('torch.')}"
    if call.shape[-1] > _LARGEST_HEAD_DIM:
        return f"its kernels take head dims up to {_LARGEST_HEAD_DIM}, got {call.shape[-1]}"
    return None


def forward(
    q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, cos: Tensor | None, sin: Tensor | None,
    eps: float, out_q: Tensor, out_k: Tensor,
) -> None:
    """Write the normalised and rotated ``q`` and ``k`` into ``out_q`` and ``out_k``, which may be ``q`` and ``k``."""
    from .triton_kernels import forward_kernel
    from .triton_launch import angle_table, launch

    cos, sin = angle_table(cos), angle_table(sin)
    written_q, written_k = unit_stride_like(out_q), unit_stride_like(out_k)
    grids = {"q": q, "k": k, "out_q": written_q, "out_k": written_k}
    call = launch("qk_norm_rope", grids, (cos, sin), q_weight is not None)
    with on_device(q):
        forward_kernel[(call.programs,)](
            q, k, written_q, written_k, contiguous_parameter(q_weight), contiguous_parameter(k_weight), cos, sin, eps,
            **call.integers, **call.constants, **call.options,
        )
    copy_back(written_q, out_q)
    copy_back(written_k, out_k)


def backward(
    grad_q: Tensor, grad_k: Tensor, q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None,
    cos: Tensor | None, sin: Tensor | None, eps: float, dq: Tensor, dk: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """Write the gradients of ``q`` and ``k`` into ``dq`` and ``dk``; return those of the weights in fp32."""
    from .triton_kernels import backward_kernel
    from .triton_launch import angle_table, launch, partial_sums

    norm = q_weight is not None
    cos, sin = angle_table(cos), angle_table(sin)
    grad_q, grad_k = unit_stride_gradient(grad_q), unit_stride_gradient(grad_k)
    written_q, written_k = unit_stride_like(dq), unit_stride_like(dk)
    grids = {"grad_q": grad_q, "grad_k": grad_k, "q": q, "k": k, "dq": written_q, "dk": written_k}
    call = launch("qk_norm_rope_backward", grids, (cos, sin), norm)
    partial = partial_sums(call.programs, q) if norm else None
    with on_device(q):
        backward_kernel[(call.programs,)](
            grad_q, grad_k, q, k, written_q, written_k, contiguous_parameter(q_weight), contiguous_parameter(k_weight),
            partial, cos, sin, eps, **call.integers, **call.constants, **call.options,
        )
    copy_back(written_q, dq)
    copy_back(written_k, dk)
    return tuple(partial.sum(0).unbind(0)) if norm else (None, None)
