"""Attention by the fused kernels that PyTorch offers on a GPU, one at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..peers.layout import from_lines, to_lines

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def on_lines(kernel: str) -> Attend:
    """SDPA by one kernel on ``(L, H, S, D)``."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(KERNELS[kernel]):
            return F.scaled_dot_product_attention(q, k, v)

    return run


def permuted(kernel: str, axes: str) -> Attend:
    """The same from the grid to a contiguous grid, with the copies that takes."""
    attend = on_lines(kernel)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        lines = attend(*(to_lines(x, axes) for x in (q, k, v)))
        return from_lines(lines, axes, tuple(q.shape)).contiguous()

    return run
