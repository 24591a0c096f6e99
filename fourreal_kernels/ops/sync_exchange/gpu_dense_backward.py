"""Backward of the exchange with dense weights on GPUs, in chunks of rows as the forward.

With g the upstream gradient (hard: of both results together) and z the two streams side by side, one product P = g^T z
per batch entry carries every parameter: gates and scales act on its rows and columns only, so neither the forward
product nor a scaled copy of the streams is needed again. The pass after the GEMM applies the scale, as a gate. P of a
chunk has the dtype of the streams, as a GEMM of 16-bit operands gives it; chunks are added in fp32, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import contiguous_parameter, unit_stride_gradient
from .call import ExchangeGradients
from .gpu_chunks import Chunk, chunks, launch_grids, multiply_in_chunks, rows_of_entry
from .parameter_gradients import DenseParameterGradients

Pass = Callable[..., None]
"""``stage`` or ``finish`` of a backend, which launch its kernels."""


def backward(stage: Pass, finish: Pass, grad_view: Tensor, grad_time: Tensor, view: Tensor, time: Tensor,
             weight: Tensor, bias: Tensor | None, input_scale: Tensor | None, gate: Tensor | None,
             kind: str) -> ExchangeGradients:
    """Gradients of the streams in their dtype, of the parameters in fp32."""
    batch = view.shape[0]
    entries = batch if gate is not None or input_scale is not None else 1
    outs = torch.empty_like(view), torch.empty_like(time)
    scale = contiguous_parameter(input_scale)
    gradients = DenseParameterGradients(weight.detach(), bias, input_scale, gate)
    tensors = (unit_stride_gradient(grad_view), unit_stride_gradient(grad_time), view, time, *outs)
    for grids in launch_grids(tensors):
        for entry in range(entries):
            matrix = gradients.gated_weight(entry).to(view.dtype)
            gathered = _entries_backward(stage, finish, grids, entry, batch // entries, matrix, scale, kind == "hard")
            gradients.add(entry, *gathered)
    return ExchangeGradients(*outs, *gradients.of_arguments)


def _entries_backward(stage: Pass, finish: Pass, grids: tuple[Tensor, ...], first: int, count: int, weight: Tensor,
                      scale: Tensor | None, hard: bool) -> tuple[Tensor, Tensor]:
    """Write the gradients of the streams of some batch entries; g^T z and the sum of g over their rows."""
    grads, streams, results = grids[:2], grids[2:4], grids[4:]
    outputs, inputs = weight.shape
    parts = chunks(first, count, rows_of_entry(grids[0]), (outputs + 2 * inputs) * weight.element_size())
    products = weight.new_zeros(weight.shape, dtype=torch.float32)
    sums = weight.new_zeros(outputs, dtype=torch.float32)
    z = weight.new_empty(max(part.length for part in parts), inputs)

    def stage_both(part: Chunk, staged: Tensor) -> None:
        stage(part, staged, grads, add=hard)
        stage(part, z, streams)
        g = staged[: part.length]
        products.add_(g.t() @ z[: part.length])
        sums.add_(g.sum(0, dtype=torch.float32))

    def finish_both(part: Chunk, dz: Tensor) -> None:
        finish(part, dz, grads, results, gate=scale, hard=False, residual=not hard)

    multiply_in_chunks(parts, weight, stage_both, finish_both)
    return products, sums
