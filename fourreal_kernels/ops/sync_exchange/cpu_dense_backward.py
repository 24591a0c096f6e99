"""Backward of the exchange with dense weights on CPUs, in chunks of rows as the forward.

With g the upstream gradient (hard: of both results together) and z the two streams side by side, one product P = g^T z
per batch entry carries every parameter: gates and scales act on its rows and columns only, so neither the forward
product nor a scaled copy of the streams is needed again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ..checks import unit_stride_gradient
from ..fresh import empty_like
from .call import ExchangeGradients
from .compiled import as_grids
from .cpu_rows import DTYPE_NAMES, chunks, row_count
from .parameter_gradients import DenseParameterGradients


def backward(grad_view: Tensor, grad_time: Tensor, view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None,
             input_scale: Tensor | None, gate: Tensor | None, kind: str) -> ExchangeGradients:
    """Gradients of the streams in their dtype, of the parameters in the accumulation dtype."""
    batch = view.shape[0]
    per_sample = gate is not None or input_scale is not None
    outs = empty_like(view), empty_like(time)
    gradients = DenseParameterGradients(weight, bias, input_scale, gate)
    tensors = (unit_stride_gradient(grad_view), unit_stride_gradient(grad_time), view, time, *outs)
    for grids in as_grids(tensors):
        rows = row_count(grids[0])
        entries = batch if per_sample else 1
        for entry in range(entries):
            span = (entry * rows // entries, (entry + 1) * rows // entries)
            products = _rows_backward(grids, span, gradients.scaled_weight(entry), kind)
            gradients.add(entry, *products)
    return ExchangeGradients(*outs, *gradients.of_arguments)


def _rows_backward(grids: tuple[Tensor, ...], span: tuple[int, int], weight: Tensor,
                   kind: str) -> tuple[Tensor, Tensor]:
    """Write the gradients of the streams for a span of rows; g^T z and the sum of g over these rows."""
    outputs, inputs = weight.shape
    products, sums = weight.new_zeros(outputs, inputs), weight.new_zeros(outputs)
    parts = chunks(span, outputs + 2 * inputs, weight.dtype)
    longest = parts[0][1] - parts[0][0]
    grads, streams, results = (weight.new_empty(longest, columns) for columns in (outputs, inputs, inputs))
    library, dtype, sizes = native.cpu_library(), DTYPE_NAMES[grids[0].dtype], grids[0].shape
    for rows in parts:
        g, z, dz = (x[: rows[1] - rows[0]] for x in (grads, streams, results))
        library.sync_exchange_stage(dtype, sizes, rows, *grids[:2], None, None, None, kind == "hard", g)
        library.sync_exchange_stage(dtype, sizes, rows, *grids[2:4], None, None, None, False, z)
        torch.mm(g, weight, out=dz)
        products.addmm_(g.t(), z)
        sums += g.sum(0)
        finish = "split" if kind == "hard" else "soft"
        library.sync_exchange_finish(finish, dtype, sizes, rows, *grids[:2], *grids[4:], dz, None, None)
    return products, sums
