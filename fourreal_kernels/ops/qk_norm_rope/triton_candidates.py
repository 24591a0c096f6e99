"""What ``fourreal tune`` measures of QK-norm with rotary embedding: a grid of 8 x 8 frames of 576 tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..triton_cases import TuneTask
from ..triton_support import INTERPRETER
from ..triton_tuning import Typical, device, tasks

_EPS = 1e-6
_OPERATORS = torch.ops.fourreal_kernels


def tuning_candidates(arch: str) -> list[TuneTask]:
    """A task per kernel and bucket."""
    # small enough for the interpreter, where the tests call these workloads
    frames, tokens, channels = (1, 3, 16) if arch == INTERPRETER else (8, 576, 1024)

    def arguments(head_dim: int, dtype: torch.dtype) -> list[Tensor]:
        heads = max(1, channels // head_dim)
        q, k = (torch.randn(1, frames, frames, tokens, heads, head_dim, device=device()).to(dtype) for _ in range(2))
        weights = [torch.randn(head_dim, device=device()).to(dtype) for _ in range(2)]
        angle = torch.randn(1, frames, frames, tokens, head_dim // 2, device=device())
        return [q, k, *weights, angle.cos(), angle.sin()]

    def forward(head_dim: int, length: int, dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
        tensors = arguments(head_dim, dtype)
        return lambda: _OPERATORS.qk_norm_rope(*tensors, _EPS, "triton")

    def backward(head_dim: int, length: int, dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
        tensors = arguments(head_dim, dtype)
        grads = [torch.randn_like(x) for x in tensors[:2]]
        return lambda: _OPERATORS.qk_norm_rope_backward(*grads, *tensors, _EPS, "triton")

    typical = Typical(head_dim=16 if arch == INTERPRETER else 64)
    return [
        *tasks("qk_norm_rope", arch, forward, typical),
        *tasks("qk_norm_rope_backward", arch, backward, typical),
    ]
