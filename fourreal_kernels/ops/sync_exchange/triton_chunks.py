"""Chunks of rows of the dense exchange, and the launches that fill and empty their scratch.

The scratch of a chunk is bounded whatever the size of the streams, and small enough to stay in the L2 cache of a chip
of the H100's generation between the passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...tuning import config
from ..triton_access import on_device
from ..triton_support import arch_of
from . import triton_dense_kernels as kernels
from .triton_channel import grid_strides

SCRATCH_BYTES = 32 << 20
FEWEST_ROWS = 256
"""A matrix product of fewer rows leaves most of a GPU idle."""


@dataclass(frozen=True)
class Chunk:
    """``rows`` rows, from ``first_row``, of each of ``samples`` batch entries from ``first_sample``."""

    first_sample: int
    samples: int
    first_row: int
    rows: int

    @property
    def length(self) -> int:
        return self.samples * self.rows


def chunks(first_sample: int, samples: int, rows: int, row_bytes: int) -> list[Chunk]:
    """Parts of whole batch entries of ``rows`` rows each, whose scratch of ``row_bytes`` a row fits SCRATCH_BYTES."""
    most = max(FEWEST_ROWS, SCRATCH_BYTES // row_bytes)
    if rows <= most:
        together, last = max(1, most // rows), first_sample + samples
        return [Chunk(begin, min(together, last - begin), 0, rows) for begin in range(first_sample, last, together)]
    length = -(-rows // -(-rows // most))
    return [
        Chunk(sample, 1, begin, min(length, rows - begin))
        for sample in range(first_sample, first_sample + samples)
        for begin in range(0, rows, length)
    ]


def rows_of_entry(grid: Tensor) -> int:
    return grid.shape[1] * grid.shape[2] * grid.shape[3]


def multiply_in_chunks(parts: list[Chunk], matrix: Tensor, stage: Callable[[Chunk, Tensor], None],
                       finish: Callable[[Chunk, Tensor], None]) -> None:
    """For each chunk: ``stage`` fills rows, they are multiplied by ``matrix``, ``finish`` takes the product away."""
    longest = max(part.length for part in parts)
    inputs, outputs = matrix.shape
    staged, mixed = matrix.new_empty(longest, inputs), matrix.new_empty(longest, outputs)
    for part in parts:
        stage(part, staged)
        torch.mm(staged[: part.length], matrix, out=mixed[: part.length])
        finish(part, mixed)


def stage(chunk: Chunk, staged: Tensor, streams: tuple[Tensor, Tensor], *, scale: Tensor | None = None,
          branches: tuple[Tensor, Tensor] | None = None, branch_gate: Tensor | None = None, add: bool = False) -> None:
    """Write both grids, with their branches added and scaled, side by side into ``staged``; with ``add`` their sum."""
    names = ("view", "time", "view_branch", "time_branch")
    unit, strides = grid_strides(dict(zip(names, (*streams, *(branches or streams)), strict=True)))
    options, integers, programs = _launch(chunk, streams[0])
    with on_device(staged):
        kernels.stage_kernel[(programs,)](
            *streams, *(branches or (None, None)), branch_gate, scale, staged, **integers, **strides,
            C=streams[0].shape[-1], ADD=add, UNIT=unit, **options,
        )


def finish(chunk: Chunk, mixed: Tensor, streams: tuple[Tensor, Tensor], outs: tuple[Tensor, Tensor], *,
           bias: Tensor | None = None, gate: Tensor | None = None, hard: bool, residual: bool) -> None:
    """Write gate * (product + bias) into ``outs``, with ``residual`` added to ``streams``."""
    names = ("view", "time", "out_view", "out_time")
    unit, strides = grid_strides(dict(zip(names, (*streams, *outs), strict=True)))
    options, integers, programs = _launch(chunk, streams[0])
    with on_device(mixed):
        kernels.finish_kernel[(programs,)](
            mixed, *streams, *outs, bias, gate, **integers, **strides,
            C=streams[0].shape[-1], HARD=hard, RESIDUAL=residual, UNIT=unit, **options,
        )


def _launch(chunk: Chunk, grid: Tensor) -> tuple[dict[str, int], dict[str, int], int]:
    """Options, integers that do not depend on strides, and the number of programs."""
    options = config(
        "sync_exchange_dense", arch=arch_of(grid.device), length=grid.shape[-1], dtype_bytes=grid.element_size()
    )
    row_blocks = -(-chunk.rows // options["BLOCK_M"])
    channel_blocks = -(-grid.shape[-1] // options["BLOCK_C"])
    integers = {"times": grid.shape[2], "tokens": grid.shape[3], "first_sample": chunk.first_sample,
                "first_row": chunk.first_row, "rows": chunk.rows, "row_blocks": row_blocks,
                "channel_blocks": channel_blocks}
    return options, integers, chunk.samples * row_blocks * channel_blocks
