"""QK-norm and rotary embedding by the compiled CPU kernels: q and k in one pass, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ..checks import has_unit_stride, unit_stride_gradient
from .call import NormRopeCall

_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_NO_ANGLES = (0, (), ())


def unavailable() -> str | None:
    return None if native.cpu_library() else native.why_missing("cpu")


def refusal(call: NormRopeCall) -> str | None:
    if call.device.type != "cpu":
        return f"it runs on cpu, the call is on {call.device.type}"
    if call.dtype not in _DTYPES:
        return f"its arithmetic is in float32, the call is in {str(call.dtype).removeprefix('torch.')}"
    return None


def forward(
    q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, cos: Tensor | None, sin: Tensor | None,
    eps: float, out_q: Tensor, out_k: Tensor,
) -> None:
    """Write the normalised and rotated ``q`` and ``k`` into ``out_q`` and ``out_k``, which may be ``q`` and ``k``."""
    q_weight, k_weight = _parameter(q_weight), _parameter(k_weight)
    cos, sin = _angles(cos), _angles(sin)
    q_grid, k_grid = _grid(q), _grid(k)
    dense_q, dense_k = _unit_stride_like(out_q), _unit_stride_like(out_k)
    native.cpu_library().qk_norm_rope(
        q_grid, k_grid, q_grid if dense_q is q else _grid(dense_q), k_grid if dense_k is k else _grid(dense_k),
        _DTYPES[q.dtype], q.shape, _address(q_weight), _address(k_weight),
        _broadcastable(cos), _broadcastable(sin), eps,
    )
    _copy_back(dense_q, out_q)
    _copy_back(dense_k, out_k)


def backward(
    grad_q: Tensor, grad_k: Tensor, q: Tensor, k: Tensor, q_weight: Tensor | None, k_weight: Tensor | None,
    cos: Tensor | None, sin: Tensor | None, eps: float, dq: Tensor, dk: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """Write the gradients of ``q`` and ``k`` into ``dq`` and ``dk``; return those of the weights in fp32."""
    q_weight, k_weight = _parameter(q_weight), _parameter(k_weight)
    cos, sin = _angles(cos), _angles(sin)
    grad_q, grad_k = unit_stride_gradient(grad_q), unit_stride_gradient(grad_k)
    dense_q, dense_k = _unit_stride_like(dq), _unit_stride_like(dk)
    dq_weight, dk_weight = (None if weight is None else torch.empty_like(weight) for weight in (q_weight, k_weight))
    native.cpu_library().qk_norm_rope_backward(
        _grid(grad_q), _grid(grad_k), _grid(q), _grid(k), _grid(dense_q), _grid(dense_k), _DTYPES[q.dtype], q.shape,
        _address(q_weight), _address(k_weight), _address(dq_weight), _address(dk_weight),
        _broadcastable(cos), _broadcastable(sin), eps,
    )
    _copy_back(dense_q, dq)
    _copy_back(dense_k, dk)
    return dq_weight, dk_weight


def _grid(x: Tensor) -> tuple[int, tuple[int, ...]]:
    return x.data_ptr(), x.stride()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _parameter(weight: Tensor | None) -> Tensor | None:
    """Weights are small: the kernel reads them contiguous in fp32."""
    if weight is None or (weight.dtype == torch.float32 and weight.is_contiguous()):
        return weight
    return weight.detach().float().contiguous()


def _angles(x: Tensor | None) -> Tensor | None:
    """In fp32. Expanded dims are dropped before a conversion, which would store them in full."""
    if x is None or x.dtype == torch.float32:
        return x
    for dim, stride in enumerate(x.stride()[:-1]):
        if stride == 0:
            x = x.narrow(dim, 0, 1)
    return x.detach().float()


def _broadcastable(x: Tensor | None) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return _NO_ANGLES if x is None else (x.data_ptr(), x.shape, x.stride())


def _unit_stride_like(out: Tensor) -> Tensor:
    """Where the kernel writes: ``out``, unless its channels are strided, as those of a result like sliding windows."""
    return out if has_unit_stride(out) else torch.empty_like(out, memory_format=torch.contiguous_format)


def _copy_back(written: Tensor, out: Tensor) -> None:
    if written is not out:
        out.copy_(written)
