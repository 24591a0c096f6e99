"""How the compiled backends are handed tensors: addresses with strides, parameters and angles in fp32."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_NO_ANGLES = (0, (), ())


def grid(x: Tensor) -> tuple[int, tuple[int, ...]]:
    return x.data_ptr(), x.stride()


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def parameter(weight: Tensor | None) -> Tensor | None:
    """Weights are small: the kernel reads them contiguous in fp32."""
    if weight is None or (weight.dtype == torch.float32 and weight.is_contiguous()):
        return weight
    return weight.detach().float().contiguous()


def angles(x: Tensor | None) -> Tensor | None:
    """In fp32. Expanded dims are dropped before a conversion, which would store them in full."""
    if x is None or x.dtype == torch.float32:
        return x
    for dim, stride in enumerate(x.stride()[:-1]):
        if stride == 0:
            x = x.narrow(dim, 0, 1)
    return x.detach().float()


def broadcastable(x: Tensor | None) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return _NO_ANGLES if x is None else (x.data_ptr(), x.shape, x.stride())
