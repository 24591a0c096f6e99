"""The exchange with dense weights on GPUs, in chunks of rows: torch's GEMM, then a compiled CUDA pass, also in place.

The product of a chunk is written into scratch of at most 32 MiB (256 rows at least, whatever their size), which stays
in the L2 cache until the pass applies bias, gate and residual. Where rows of a stream are evenly spaced and are not
scaled, the GEMM reads them where they lie: a product for each stream, added in the dtype of the streams. Otherwise a
pass lays both streams side by side in the same scratch first, for one product. All rows of a chunk are read before the
first is written.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import contiguous_parameter
from .cuda_rows import finish, stage
from .gpu_chunks import Chunk, chunks, launch_grids, multiply_in_chunks, rows_of_entry


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    matrix = weight.detach().t()
    bias, scale, gate = (contiguous_parameter(x) for x in (bias, input_scale, gate))
    hard = kind == "hard"
    for grids in launch_grids((view, time, out_view, out_time)):
        streams, outs = grids[:2], grids[2:]

        def take(part: Chunk, mixed: Tensor, streams=streams, outs=outs) -> None:
            finish(part, mixed, streams, outs, bias=bias, gate=gate, hard=hard, residual=not hard)

        if scale is None and all(_rows_are_even(x) for x in streams):
            _multiply_where_they_lie(streams, matrix, take)
        else:
            parts = chunks(0, view.shape[0], rows_of_entry(grids[0]), sum(matrix.shape) * view.element_size())
            multiply_in_chunks(
                parts, matrix, lambda part, staged, streams=streams: stage(part, staged, streams, scale=scale), take
            )


def _multiply_where_they_lie(streams: tuple[Tensor, Tensor], matrix: Tensor,
                             take: Callable[[Chunk, Tensor], None]) -> None:
    batch, channels, outputs = streams[0].shape[0], streams[0].shape[-1], matrix.shape[1]
    parts = chunks(0, batch, rows_of_entry(streams[0]), outputs * matrix.element_size())
    mixed = matrix.new_empty(max(part.length for part in parts), outputs)
    for part in parts:
        view, time = (_rows(x, part) for x in streams)
        product = mixed[: part.length]
        torch.mm(view, matrix[:channels], out=product)
        product.addmm_(time, matrix[channels:])
        take(part, mixed)


def _rows_are_even(grid: Tensor) -> bool:
    """Whether the rows of every run of batch entries are a matrix that BLAS takes: evenly spaced, without overlap."""
    expected = None
    for size, stride in zip(reversed(grid.shape[:-1]), reversed(grid.stride()[:-1]), strict=True):
        if size == 1:
            continue
        if stride != expected and (expected is not None or stride < grid.shape[-1]):
            return False
        expected = size * stride
    return True


def _rows(grid: Tensor, part: Chunk) -> Tensor:
    """The rows of a chunk as a matrix, without a copy. A chunk is a part of one batch entry, or whole ones."""
    samples = grid.narrow(0, part.first_sample, part.samples)
    return samples.view(-1, grid.shape[-1]).narrow(0, part.first_row, part.length)
