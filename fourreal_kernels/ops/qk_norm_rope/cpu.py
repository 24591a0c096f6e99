"""QK-norm and rotary embedding by the compiled CPU kernels: q and k in one pass, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ..checks import copy_back, unit_stride_gradient, unit_stride_like
from . import compiled
from .call import NormRopeCall


def unavailable() -> str | None:
    return None if native.cpu_library() else native.why_missing("cpu")


def refusal(call: NormRopeCall) -> str | None:
    if call.device.type != "cpu":
        return f"it runs on cpu, the call is on {call.device.type}"
    if call.dtype not in compiled.DTYPES:
        return f"its arithmetic is in float32, the call is in {str(call.dtype).removeprefix('torch.')}"
    return None


def forward(
    q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, cos: Tensor | None, sin: Tensor | None,
    eps: float, out_q: Tensor, out_k: Tensor,
) -> None:
    """Write the normalised and rotated ``q`` and ``k`` into ``out_q`` and ``out_k``, which may be ``q`` and ``k``."""
    q_weight, k_weight = compiled.parameter(q_weight), compiled.parameter(k_weight)
    cos, sin = compiled.angles(cos), compiled.angles(sin)
    dense_q, dense_k = unit_stride_like(out_q), unit_stride_like(out_k)
    native.cpu_library().qk_norm_rope(
        q, k, dense_q, dense_k, compiled.DTYPES[q.dtype], q.shape, q_weight, k_weight, cos, sin, eps
    )
    copy_back(dense_q, out_q)
    copy_back(dense_k, out_k)


def backward(
    grad_q: Tensor, grad_k: Tensor, q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None,
    cos: Tensor | None, sin: Tensor | None, eps: float, dq: Tensor, dk: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """Write the gradients of ``q`` and ``k`` into ``dq`` and ``dk``; return those of the weights in fp32."""
    q_weight, k_weight = compiled.parameter(q_weight), compiled.parameter(k_weight)
    cos, sin = compiled.angles(cos), compiled.angles(sin)
    grad_q, grad_k = unit_stride_gradient(grad_q), unit_stride_gradient(grad_k)
    dense_q, dense_k = unit_stride_like(dq), unit_stride_like(dk)
    dq_weight, dk_weight = (None if weight is None else torch.empty_like(weight) for weight in (q_weight, k_weight))
    native.cpu_library().qk_norm_rope_backward(
        grad_q, grad_k, q, k, dense_q, dense_k, compiled.DTYPES[q.dtype], q.shape,
        q_weight, k_weight, dq_weight, dk_weight, cos, sin, eps,
    )
    copy_back(dense_q, dq)
    copy_back(dense_k, dk)
    return dq_weight, dk_weight
