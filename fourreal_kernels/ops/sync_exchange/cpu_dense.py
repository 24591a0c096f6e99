"""The exchange with dense weights on CPUs, in chunks of rows: a compiled pass, torch's GEMM, a compiled pass.

The scratch of a chunk is bounded, whatever the size of the streams; strides and 16-bit dtypes are resolved while a
chunk is copied into it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ..checks import accumulation_dtype
from .compiled import as_accumulated, as_grids
from .cpu_rows import DTYPE_NAMES, NormParameters, chunks, row_count


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor,
            norm: NormParameters | None = None) -> None:
    dtype = accumulation_dtype(view.dtype)
    product = weight.to(dtype).t()
    parameters = [as_accumulated(x) for x in (bias, input_scale, gate)]
    for grids in as_grids((view, time, out_view, out_time, *(norm[:4] if norm else ()))):
        _exchange(grids, product, parameters, kind, norm)


def _exchange(grids: tuple[Tensor, ...], product: Tensor, parameters: list[Tensor | None], kind: str,
              norm: NormParameters | None) -> None:
    """``grids``: view, time, out_view, out_time and with a norm its four tensors. ``product``: (2C, K)."""
    inputs, outputs = product.shape
    parts = chunks((0, row_count(grids[0])), inputs + outputs, product.dtype)
    longest = parts[0][1]
    staged, mixed = product.new_empty((longest, inputs)), product.new_empty((longest, outputs))
    bias, input_scale, gate = parameters
    streams, outs, branches = grids[:2], grids[2:4], grids[4:6] or None
    branch_gate, of_norm = (norm.branch_gate, (*grids[4:], *norm[4:])) if norm else (None, None)
    library, dtype, sizes = native.cpu_library(), DTYPE_NAMES[grids[0].dtype], grids[0].shape
    for rows in parts:
        count = rows[1] - rows[0]
        library.sync_exchange_stage(
            dtype, sizes, rows, *streams, branches, branch_gate, input_scale, False, staged
        )
        torch.mm(staged[:count], product, out=mixed[:count])
        library.sync_exchange_finish(
            kind, dtype, sizes, rows, *streams, *outs, mixed, bias, gate, of_norm
        )
