"""Chunks of rows of the dense exchange on GPUs, whose scratch is bounded whatever the size of the streams.

It is small enough to stay in the L2 cache of a chip of the H100's generation between a pass that stages rows, torch's
GEMM, and a pass that takes its product into the streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .compiled import as_grids

SCRATCH_BYTES = 32 << 20
FEWEST_ROWS = 256
"""A matrix product of fewer rows leaves most of a GPU idle."""


_MOST_ROWS = (1 << 31) - 1
"""Kernels number the rows of a batch entry in 32 bits."""


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


def launch_grids(tensors: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape ``(B, ..., C)`` as grids of the same parts, of as many rows as a kernel can number."""
    for grids in as_grids(tensors):
        yield from _bounded(grids)


def _bounded(grids: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    if rows_of_entry(grids[0]) <= _MOST_ROWS:
        yield grids
        return
    sizes = grids[0].shape
    dim = max((1, 2, 3), key=lambda dim: sizes[dim])
    half = sizes[dim] // 2
    yield from _bounded(tuple(x.narrow(dim, 0, half) for x in grids))
    yield from _bounded(tuple(x.narrow(dim, half, sizes[dim] - half) for x in grids))


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
