"""PyTorch's fused attention kernels with their log-sum-exp, which the public SDPA function does not return.

All take and return lines ``(L, S, H, D)``; log-sum-exp is ``(L, S, H)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .call import AttentionCall

_HALF = (torch.float16, torch.bfloat16)


def refusal(call: AttentionCall) -> str | None:
    """Why PyTorch's fused kernels cannot run this call."""
    head_dim = call.shape[-1]
    if call.device.type == "cpu":
        return None
    if call.device.type != "cuda":
        return f"it runs on cpu and cuda, not on {call.device.type}"
    if call.dtype == torch.float64:
        return "PyTorch's fused attention has no float64 on cuda"
    if head_dim % 8 or head_dim > 256:
        return f"PyTorch's fused attention on cuda needs a head dim that is a multiple of 8 up to 256, got {head_dim}"
    if call.deterministic and not torch.are_deterministic_algorithms_enabled():
        return "its backward on cuda is deterministic only under torch.use_deterministic_algorithms(True)"
    return None


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention along S of each line, with its log-sum-exp."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
    elif q.dtype in _HALF:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[:2]
    else:
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)[:2]
    return out.transpose(1, 2), lse[..., : q.shape[2]].transpose(1, 2)


def backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv of lines, with probabilities exp(scale q k^T - lse) for the given ``lse``."""
    grad_out, q, k, v, out, lse = (x.transpose(1, 2) for x in (grad_out, q, k, v, out, lse))
    if q.device.type == "cpu":
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_out.contiguous(), q, k, v, out, lse.contiguous(), 0.0, False, scale=scale
        )
    elif q.dtype in _HALF:
        grads = _cuda_flash_backward(grad_out, q, k, v, out, lse, scale)
    else:
        grads = _cuda_efficient_backward(grad_out, q, k, v, out, lse, scale)
    dq, dk, dv = (grad.transpose(1, 2) for grad in grads[:3])
    return dq, dk, dv


def _no_dropout_state(device: torch.device) -> Tensor:
    return torch.empty(0, dtype=torch.int64, device=device)


def _cuda_flash_backward(grad_out, q, k, v, out, lse, scale: float):
    seed = torch.zeros(2, dtype=torch.uint64, device=q.device)
    return torch.ops.aten._scaled_dot_product_flash_attention_backward(
        grad_out, q, k, v, out, lse.contiguous(), None, None, q.shape[2], k.shape[2], 0.0, False,
        seed, _no_dropout_state(q.device), scale=scale,
    )


def _cuda_efficient_backward(grad_out, q, k, v, out, lse, scale: float):
    padding = -lse.shape[-1] % 32
    lse = torch.nn.functional.pad(lse, (0, padding), value=float("inf")).contiguous()
    seed = torch.zeros((), dtype=torch.int64, device=q.device)
    return torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad_out, q, k, v, None, out, lse, seed, seed.clone(), 0.0, [True, True, True, False], scale=scale
    )
