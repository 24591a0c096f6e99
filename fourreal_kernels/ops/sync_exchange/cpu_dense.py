"""The exchange with dense weights on CPUs, in chunks of rows: a compiled pass, torch's GEMM, a compiled pass.

The scratch of a chunk is bounded, whatever the size of the streams; strides and 16-bit dtypes are resolved while a chunk
is copied into it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ..checks import accumulation_dtype
from . import reference
from .compiled import address, as_accumulated
from .cpu_rows import DTYPE_NAMES, NormParameters, row_count, sizes_argument, tensor_argument

SCRATCH_BYTES = 4 << 20
_FEWEST_ROWS = 64


def _chunks(rows: int, columns: int, dtype: torch.dtype) -> list[tuple[int, int]]:
    """Equal ranges of rows, each with scratch for ``columns`` numbers per row."""
    most = max(_FEWEST_ROWS, SCRATCH_BYTES // (columns * dtype.itemsize))
    count = -(-rows // most)
    length = -(-rows // count)
    return [(begin, min(rows, begin + length)) for begin in range(0, rows, length)]


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor,
            norm: NormParameters | None = None) -> None:
    dtype = accumulation_dtype(view.dtype)
    outputs, inputs = weight.shape
    product = weight.to(dtype).t()
    bias, input_scale, gate = (as_accumulated(x) for x in (bias, input_scale, gate))
    chunks = _chunks(row_count(view), inputs + outputs, dtype)
    longest = chunks[0][1]
    staged, mixed = view.new_empty((longest, inputs), dtype=dtype), view.new_empty((longest, outputs), dtype=dtype)
    library = native.cpu_library()
    name, sizes = DTYPE_NAMES[view.dtype], sizes_argument(view)
    streams, outs = [[tensor_argument(x) for x in pair] for pair in ((view, time), (out_view, out_time))]
    branches = None if norm is None else (tensor_argument(norm.view_branch), tensor_argument(norm.time_branch))
    branch_gate = 0 if norm is None else address(norm.branch_gate)
    of_norm = None if norm is None else norm.argument()
    for rows in chunks:
        count = rows[1] - rows[0]
        library.sync_exchange_stage(name, sizes, rows, *streams, branches, branch_gate, address(input_scale), False,
                                    staged.data_ptr())
        torch.mm(staged[:count], product, out=mixed[:count])
        library.sync_exchange_finish(kind, name, sizes, rows, *streams, *outs, mixed.data_ptr(), address(bias),
                                     address(gate), of_norm)


backward = reference.backward
