"""The exchange with dense weights on GPUs, in chunks of rows: a Triton pass, torch's GEMM, a Triton pass.

The first pass lays both streams side by side, so that one GEMM of 2C inputs does the work; the second one applies bias,
gate and residual. A row is read before it is written, also in place.
"""

from __future__ import annotations

from torch import Tensor

from ..checks import contiguous_parameter
from .compiled import as_grids
from .gpu_chunks import chunks, multiply_in_chunks, rows_of_entry
from .triton_chunks import finish, stage


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    matrix = weight.detach().t()
    bias, scale, gate = (contiguous_parameter(x) for x in (bias, input_scale, gate))
    hard = kind == "hard"
    for grids in as_grids((view, time, out_view, out_time)):
        streams, outs = grids[:2], grids[2:]
        parts = chunks(0, view.shape[0], rows_of_entry(grids[0]), sum(matrix.shape) * view.element_size())
        multiply_in_chunks(
            parts, matrix,
            lambda part, staged, streams=streams: stage(part, staged, streams, scale=scale),
            lambda part, mixed, streams=streams, outs=outs: finish(
                part, mixed, streams, outs, bias=bias, gate=gate, hard=hard, residual=not hard
            ),
        )
