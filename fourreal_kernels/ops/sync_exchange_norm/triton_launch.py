"""Launches of the Triton kernel of the fused exchange: over all rows, or over the chunks of the dense form."""

from __future__ import annotations

from torch import Tensor

from ...tuning import config
from ..checks import contiguous_parameter
from ..sync_exchange.compiled import as_grids
from ..sync_exchange.gpu_chunks import Chunk, chunks, multiply_in_chunks, rows_of_entry
from ..sync_exchange.triton_channel import grid_strides
from ..sync_exchange.triton_chunks import stage
from ..triton_access import on_device, power_of_two
from ..triton_support import arch_of
from .call import ExchangeNormTensors
from .triton_kernels import STREAMS, forward_kernel

Outs = tuple[Tensor, Tensor, Tensor, Tensor]


def per_channel_forward(tensors: ExchangeNormTensors, kind: str, eps: float, outs: Outs) -> None:
    for grids in as_grids(_streams(tensors, outs)):
        everything = Chunk(0, grids[0].shape[0], 0, rows_of_entry(grids[0]))
        _launch(everything, None, grids, tensors, kind, eps)


def dense_forward(tensors: ExchangeNormTensors, kind: str, eps: float, outs: Outs) -> None:
    matrix = tensors.weight.detach().t()
    scale, branch_gate = contiguous_parameter(tensors.input_scale), contiguous_parameter(tensors.branch_gate)
    for grids in as_grids(_streams(tensors, outs)):
        row_bytes = sum(matrix.shape) * matrix.element_size()
        parts = chunks(0, grids[0].shape[0], rows_of_entry(grids[0]), row_bytes)
        multiply_in_chunks(
            parts, matrix,
            lambda part, staged, grids=grids: stage(
                part, staged, grids[:2], scale=scale, branches=grids[2:4], branch_gate=branch_gate
            ),
            lambda part, mixed, grids=grids: _launch(part, mixed, grids, tensors, kind, eps),
        )


def _streams(tensors: ExchangeNormTensors, outs: Outs) -> tuple[Tensor, ...]:
    """In the order of the kernel's STREAMS."""
    return tensors.view, tensors.time, tensors.view_branch, tensors.time_branch, *outs


def _launch(chunk: Chunk, mixed: Tensor | None, grids: tuple[Tensor, ...], tensors: ExchangeNormTensors, kind: str,
            eps: float) -> None:
    grid = grids[0]
    channels = grid.shape[-1]
    options = config(
        "sync_exchange_norm", arch=arch_of(grid.device), length=channels, dtype_bytes=grid.element_size()
    )
    row_blocks = -(-chunk.rows // (options["BLOCK_M"] * options["STEPS"]))
    unit, strides = grid_strides(dict(zip(STREAMS, grids, strict=True)))
    weights = (tensors.weight, tensors.bias, tensors.input_scale, tensors.gate)
    if mixed is not None:
        weights = (None, tensors.bias, None, tensors.gate)
    parameters = (*weights, tensors.branch_gate, tensors.norm_scale, tensors.norm_shift)
    with on_device(grid):
        forward_kernel[(chunk.samples * row_blocks,)](
            *grids, mixed, *(contiguous_parameter(x) for x in parameters), eps,
            grid.shape[2], grid.shape[3], chunk.first_sample, chunk.first_row, chunk.rows, row_blocks, **strides,
            C=channels, HARD=kind == "hard", UNIT=unit, BLOCK_C=power_of_two(channels), **options,
        )
