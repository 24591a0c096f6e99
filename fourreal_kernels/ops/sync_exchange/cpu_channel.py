"""The exchange with per-channel weights by the compiled CPU kernels: one pass, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ..checks import unit_stride_gradient
from ..fresh import empty_like
from .call import ExchangeGradients
from .compiled import as_accumulated, as_grids
from .cpu_rows import DTYPE_NAMES, NormParameters
from .parameter_gradients import channel_parameter_gradients


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor,
            norm: NormParameters | None = None) -> None:
    parameters = [as_accumulated(x) for x in (weight, bias, input_scale, gate)]
    kernel, dtype = native.cpu_library().sync_exchange_channel, DTYPE_NAMES[view.dtype]
    for grids in as_grids((view, time, out_view, out_time, *(norm[:4] if norm else ()))):
        of_norm = (*grids[4:], *norm[4:]) if norm else None
        kernel(kind, dtype, grids[0].shape, *grids[:4], *parameters, of_norm)


def backward(grad_view: Tensor, grad_time: Tensor, view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None,
             input_scale: Tensor | None, gate: Tensor | None, kind: str) -> ExchangeGradients:
    """Gradients of the streams in their dtype, of the parameters in float64 from sums over rows in float64."""
    tensors = (unit_stride_gradient(grad_view), unit_stride_gradient(grad_time), view, time)
    outs = empty_like(view), empty_like(time)
    parameters = [as_accumulated(x) for x in (weight, input_scale, gate)]
    outputs = 1 if kind == "hard" else 2
    sums = torch.zeros(view.shape[0], 3 * outputs, view.shape[-1], dtype=torch.float64)
    kernel, dtype = native.cpu_library().sync_exchange_channel_backward, DTYPE_NAMES[view.dtype]
    for grids in as_grids((*tensors, *outs)):
        kernel(kind, dtype, grids[0].shape, *grids, *parameters, sums)
    return ExchangeGradients(*outs, *channel_parameter_gradients(sums, weight, bias, input_scale, gate))
