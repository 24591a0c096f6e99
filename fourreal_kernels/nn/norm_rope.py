"""QK-norm and rotary embedding as layers use them: without grad in place."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.qk_norm_rope.api import qk_norm_rope, qk_norm_rope_


def norm_rope(
    q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, cos: Tensor | None, sin: Tensor | None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """RMS norm by the weights, if any, and rotation by the angles, if any.

    Args:
        q, k: ``(B, V, T, N, H, D)``; without grad they may be written to.
        q_weight, k_weight, cos, sin, eps: of :func:`fourreal_kernels.qk_norm_rope`.

    Returns:
        ``(q, k)``.
    """
    if q_weight is None and cos is None:
        return q, k
    if torch.is_grad_enabled():
        return qk_norm_rope(q, k, q_weight, k_weight, cos, sin, eps=eps)
    qk_norm_rope_(q, k, q_weight, k_weight, cos, sin, eps=eps)
    return q, k
