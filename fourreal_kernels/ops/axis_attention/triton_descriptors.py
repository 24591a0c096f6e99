"""Tensor descriptors of keys and values: a tile of one frame is then one bulk copy."""

from __future__ import annotations

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

_ALIGNMENT = 16
_HEAD_DIMS = (16, 32, 64, 128, 256)


def describable(x: Tensor, block: int) -> bool:
    """Whether tiles of ``block`` tokens of ``x`` (B, V, T, N, H, D) tile its frames and can be copied in bulk.

    The hardware wants a power of two of columns, 16-byte aligned strides, and at most five dims: heads must lie side by
    side.
    """
    head_dim, tokens = x.shape[5], x.shape[3]
    if head_dim not in _HEAD_DIMS or tokens % block or block > 256 or x.data_ptr() % _ALIGNMENT:
        return False
    if x.shape[4] > 1 and x.stride(4) != head_dim:
        return False
    strides = [stride for stride, size in zip(x.stride()[:4], x.shape[:4], strict=True) if size > 1]
    return all(stride > 0 and stride * x.element_size() % _ALIGNMENT == 0 for stride in strides)


def describe(x: Tensor, block: int) -> TensorDescriptor:
    """A descriptor of ``x`` as (B, V, T, N, H * D), in tiles of ``block`` tokens of one head."""
    columns = x.shape[4] * x.shape[5]
    # the stride of a dim of size one is arbitrary, but the descriptor asks for its alignment
    strides = [stride if size > 1 else columns for stride, size in zip(x.stride()[:4], x.shape[:4], strict=True)]
    return TensorDescriptor(x, [*x.shape[:4], columns], [*strides, 1], [1, 1, 1, block, x.shape[5]])
