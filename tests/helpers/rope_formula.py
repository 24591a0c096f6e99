"""QK-norm and rotary embedding by complex multiplication, and arguments for its tests."""

from __future__ import annotations

import torch
from torch import Tensor


def complex_norm_rope(
    x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float = 1e-6
) -> Tensor:
    """In float64: divide by the root mean square, then multiply each pair of channels by cos + i sin."""
    y = x.double()
    if weight is not None:
        y = y / torch.sqrt((y.norm(dim=-1, keepdim=True) ** 2) / y.shape[-1] + eps) * weight.double()
    if cos is not None:
        factor = torch.complex(cos.double().contiguous(), sin.double().contiguous())
        factor = factor.expand(*x.shape[:4], x.shape[-1] // 2)[..., None, :]
        y = torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous()) * factor).flatten(-2)
    return y


def eager_norm_rope(
    x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float = 1e-6
) -> Tensor:
    """The usual way to write it in PyTorch, in the dtype of ``x``."""
    if weight is not None:
        x = torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)
    if cos is None:
        return x
    cos, sin = (c.to(x.dtype).expand(*x.shape[:4], x.shape[-1] // 2).repeat_interleave(2, -1).unsqueeze(-2)
                for c in (cos, sin))
    swapped = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    return x * cos + swapped * sin


def angles(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """cos and sin of random angles of many turns."""
    angle = 20 * torch.randn(shape, dtype=torch.float64)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def norm_rope_arguments(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, norm: bool = True, rope: bool = True,
    angle_shape: tuple[int, ...] | None = None, angle_dtype: torch.dtype | None = None,
) -> tuple[Tensor | None, ...]:
    """``(q, k, q_weight, k_weight, cos, sin)`` for grids of ``shape``."""
    q, k = (torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(2))
    weights = (torch.randn(shape[-1], dtype=torch.float64).to(dtype) for _ in range(2)) if norm else (None, None)
    angle_shape = (*shape[:4], shape[-1] // 2) if angle_shape is None else angle_shape
    return q, k, *weights, *(angles(*angle_shape, dtype=angle_dtype or dtype) if rope else (None, None))
