"""QK-norm and rotary embedding in eager PyTorch, in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def norm_rope_(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float = 1e-6
) -> None:
    """:func:`fourreal_kernels.qk_norm_rope_` as one writes it in PyTorch."""
    for x, weight in ((q, q_weight), (k, k_weight)):
        x.copy_(norm_rope(x, weight, cos, sin, eps))


def norm_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float = 1e-6) -> Tensor:
    """RMS norm over D and rotation of the channel pairs (2i, 2i + 1) of ``(B, V, T, N, H, D)``."""
    even, odd = F.rms_norm(x, x.shape[-1:], weight, eps).unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
