"""Arguments of the compiled CPU kernels: tensors as (address, strides), parameters as addresses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .compiled import address, as_accumulated, as_grid

DTYPE_NAMES = {
    torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"
}


def tensor_argument(x: Tensor) -> tuple[int, tuple[int, ...]]:
    return x.data_ptr(), as_grid(x).stride()


def sizes_argument(x: Tensor) -> torch.Size:
    return as_grid(x).shape


def row_count(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def unit_stride(x: Tensor) -> Tensor:
    """A gradient may arrive expanded along its channels, which the kernels do not read: then a copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


@dataclass
class NormParameters:
    """What the fused form adds to an exchange, parameters in the accumulation dtype."""

    view_branch: Tensor
    time_branch: Tensor
    view_norm: Tensor
    time_norm: Tensor
    branch_gate: Tensor | None
    norm_scale: Tensor
    norm_shift: Tensor
    eps: float

    def __post_init__(self) -> None:
        self.branch_gate, self.norm_scale, self.norm_shift = (
            as_accumulated(x) for x in (self.branch_gate, self.norm_scale, self.norm_shift)
        )

    def argument(self) -> tuple:
        tensors = (self.view_branch, self.time_branch, self.view_norm, self.time_norm)
        parameters = (self.branch_gate, self.norm_scale, self.norm_shift)
        return *(tensor_argument(x) for x in tensors), *(address(x) for x in parameters), self.eps
