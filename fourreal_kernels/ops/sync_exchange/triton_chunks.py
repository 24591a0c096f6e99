"""The launches around the GEMM of the dense exchange that fill and empty the scratch of a chunk of rows."""

from __future__ import annotations

from torch import Tensor

from ...tuning import config
from ..triton_access import on_device
from ..triton_support import arch_of
from . import triton_dense_kernels as kernels
from .gpu_chunks import Chunk
from .triton_channel import grid_strides


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
