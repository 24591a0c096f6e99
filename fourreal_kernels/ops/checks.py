"""Argument checks shared by the operators. Every error names the argument, what it got and what was expected."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are accumulated: fp32, or fp64 for fp64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def require_tensor(name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")


def require_floating(name: str, x: Tensor) -> None:
    if x.dtype not in FLOATING:
        raise TypeError(f"{name}: got dtype {x.dtype}, expected float16, bfloat16, float32 or float64")


def require_unit_stride(name: str, x: Tensor) -> None:
    """Every stride is free but that of the last dim."""
    if not has_unit_stride(x):
        raise ValueError(
            f"{name}: the last dim must be contiguous, got strides {tuple(x.stride())} for shape {tuple(x.shape)}; "
            f"store {name} with its last dim innermost (or pass {name}.contiguous(), which copies)"
        )


def has_unit_stride(x: Tensor) -> bool:
    return x.stride(-1) == 1 or x.shape[-1] == 1


def unit_stride_gradient(grad: Tensor) -> Tensor:
    """A gradient may arrive expanded along its last dim (that of a sum), which kernels do not read: then a copy."""
    return grad if has_unit_stride(grad) else grad.contiguous()


def unit_stride_like(out: Tensor) -> Tensor:
    """Where the kernel writes: ``out``, unless its channels are strided, as those of a result like sliding windows."""
    return out if has_unit_stride(out) else torch.empty_like(out, memory_format=torch.contiguous_format)


def copy_back(written: Tensor, out: Tensor) -> None:
    if written is not out:
        out.copy_(written)


def contiguous_parameter(x: Tensor | None) -> Tensor | None:
    """Parameters are small: the kernels read them contiguous."""
    return None if x is None else x.detach().contiguous()


def require_like(name: str, x: Tensor, like_name: str, like: Tensor, *, shape: bool = True) -> None:
    """Same dtype and device, and same shape unless ``shape`` is False."""
    if x.device != like.device:
        raise ValueError(f"{name}: got device {x.device}, expected {like.device} as {like_name}; move one of them")
    if x.dtype != like.dtype:
        raise TypeError(f"{name}: got dtype {x.dtype}, expected {like.dtype} as {like_name}; cast one of them")
    if shape and x.shape != like.shape:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected {tuple(like.shape)} as {like_name}")


def require_grid(name: str, x: Tensor) -> None:
    """An attention input ``(B, V, T, N, H, D)`` with no empty dim and a contiguous last dim."""
    require_tensor(name, x)
    if x.ndim != 6:
        raise ValueError(
            f"{name}: got {x.ndim} dims with shape {tuple(x.shape)}, expected 6: (batch B, views V, timesteps T, "
            "tokens N, heads H, head dim D); insert the missing axes with unsqueeze"
        )
    require_floating(name, x)
    if x.numel() == 0:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected every size to be at least 1")
    require_unit_stride(name, x)


def require_no_grad(op: str, functional: str, **tensors: Tensor | None) -> None:
    """In-place forms have no gradient: refuse inputs that ask for one while autograd records."""
    if not torch.is_grad_enabled():
        return
    for name, x in tensors.items():
        if x is not None and x.requires_grad:
            raise ValueError(
                f"{name}: requires grad, but {op} writes in place and has no gradient; call {functional}, "
                "or wrap the call in torch.no_grad()"
            )
