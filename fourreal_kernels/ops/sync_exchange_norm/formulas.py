"""Forward and backward of the fused exchange in plain PyTorch.

Everything between inputs and results is in fp32 (fp64 for fp64 inputs): the exchanged streams are normalised before
they are rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import accumulation_dtype
from ..sync_exchange import reference as exchange
from .call import ExchangeNormTensors


def forward(tensors: ExchangeNormTensors, kind: str, eps: float, out_view: Tensor, out_time: Tensor,
            view_norm: Tensor, time_norm: Tensor) -> None:
    """Write the exchanged streams and their norms into the last four, which may be the streams and the branches."""
    exchanged = _exchanged(tensors, _residuals(tensors), kind)
    scales, shifts = _halves(tensors.norm_scale, tensors.view), _halves(tensors.norm_shift, tensors.view)
    norms = [_normalised(x, eps)[0] * (1 + a) + b for x, a, b in zip(exchanged, scales, shifts, strict=True)]
    for out, x in zip((out_view, out_time, view_norm, time_norm), (*exchanged, *norms), strict=True):
        out.copy_(x)


def backward(grads: tuple[Tensor, Tensor, Tensor, Tensor], tensors: ExchangeNormTensors, kind: str,
             eps: float) -> dict[str, Tensor | None]:
    """Gradients by the name of the argument, in the accumulation dtype; None for absent arguments.

    ``grads`` are those of the exchanged streams and of their norms.
    """
    dtype = accumulation_dtype(tensors.view.dtype)
    streams = _residuals(tensors)
    exchanged = _exchanged(tensors, streams, kind)
    scales = _halves(tensors.norm_scale, tensors.view)
    of_exchanged, of_scale, of_shift = [], [], []
    for x, direct, of_norm, scale in zip(exchanged, grads[:2], grads[2:], scales, strict=True):
        of_norm = of_norm.to(dtype)
        normalised, inverse = _normalised(x, eps)
        of_scale.append(_sum_per_sample(of_norm * normalised))
        of_shift.append(_sum_per_sample(of_norm))
        of_exchanged.append(direct.to(dtype) + _norm_backward(of_norm * (1 + scale), normalised, inverse))
    through = exchange.backward(*of_exchanged, *streams, *tensors.exchange_parameters(), kind)
    return {
        "weight": through.weight, "bias": through.bias, "input_scale": through.input_scale, "gate": through.gate,
        "norm_scale": torch.cat(of_scale, dim=-1), "norm_shift": torch.cat(of_shift, dim=-1),
        **_residual_backward((through.view, through.time), tensors),
    }


def _residuals(tensors: ExchangeNormTensors) -> list[Tensor]:
    """x_s + branch_gate_s * branch_s."""
    dtype = accumulation_dtype(tensors.view.dtype)
    branches = [x.to(dtype) for x in (tensors.view_branch, tensors.time_branch)]
    if tensors.branch_gate is not None:
        branches = [x * g for x, g in zip(branches, _halves(tensors.branch_gate, tensors.view), strict=True)]
    return [x.to(dtype) + branch for x, branch in zip((tensors.view, tensors.time), branches, strict=True)]


def _residual_backward(of_streams: tuple[Tensor, Tensor], tensors: ExchangeNormTensors) -> dict[str, Tensor | None]:
    of_branches, of_gate = list(of_streams), None
    if tensors.branch_gate is not None:
        branches = (tensors.view_branch, tensors.time_branch)
        of_gate = torch.cat([_sum_per_sample(g * x) for g, x in zip(of_streams, branches, strict=True)], dim=-1)
        gates = _halves(tensors.branch_gate, tensors.view)
        of_branches = [g * gate for g, gate in zip(of_streams, gates, strict=True)]
    return {
        "view": of_streams[0], "time": of_streams[1], "branch_gate": of_gate,
        "view_branch": of_branches[0], "time_branch": of_branches[1],
    }


def _exchanged(tensors: ExchangeNormTensors, streams: list[Tensor], kind: str) -> tuple[Tensor, Tensor]:
    outs = torch.empty_like(streams[0]), torch.empty_like(streams[1])
    exchange.forward(*streams, *tensors.exchange_parameters(), kind, *outs)
    return outs


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x - mean) / sqrt(variance + eps) over channels, and that inverse root."""
    centred = x - x.mean(dim=-1, keepdim=True)
    inverse = (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    return centred * inverse, inverse


def _norm_backward(grad: Tensor, normalised: Tensor, inverse: Tensor) -> Tensor:
    along = (grad * normalised).mean(dim=-1, keepdim=True)
    return inverse * (grad - grad.mean(dim=-1, keepdim=True) - normalised * along)


def _halves(x: Tensor, like: Tensor) -> list[Tensor]:
    """``(B, 2C)`` as two ``(B, 1, ..., 1, C)`` in the accumulation dtype."""
    spread = x.to(accumulation_dtype(x.dtype)).view(x.shape[0], *[1] * (like.ndim - 2), x.shape[-1])
    return list(spread.chunk(2, dim=-1))


def _sum_per_sample(x: Tensor) -> Tensor:
    return x.sum(dim=list(range(1, x.ndim - 1))) if x.ndim > 2 else x
