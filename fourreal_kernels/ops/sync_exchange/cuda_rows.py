"""Arguments of the compiled CUDA kernels, and the passes around the GEMM of the dense exchange.

Parameters are read in the dtype of the streams. A copy of one may be freed before the kernel has run: the caching
allocator reuses memory in stream order.
"""

from __future__ import annotations

from torch import Tensor

from ... import native
from ..cuda_support import on_device, stream_of
from .compiled import address
from .gpu_chunks import Chunk

TensorArgument = tuple[int, tuple[int, ...]]


def tensor_argument(x: Tensor) -> TensorArgument:
    return x.data_ptr(), x.stride()


def dtype_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def chunk_argument(chunk: Chunk) -> tuple[int, int, int, int]:
    return chunk.first_sample, chunk.samples, chunk.first_row, chunk.rows


def stage(chunk: Chunk, staged: Tensor, streams: tuple[Tensor, Tensor], *, scale: Tensor | None = None,
          branches: tuple[Tensor, Tensor] | None = None, branch_gate: Tensor | None = None, add: bool = False) -> None:
    """Write both grids, with their branches added and scaled, side by side into ``staged``; with ``add`` their sum."""
    grid = streams[0]
    of_branches = None if branches is None else tuple(tensor_argument(x) for x in branches)
    with on_device(staged):
        native.cuda_library().sync_exchange_stage(
            dtype_name(grid), grid.shape, chunk_argument(chunk), *(tensor_argument(x) for x in streams), of_branches,
            address(branch_gate), address(scale), add, staged.data_ptr(), stream=stream_of(staged),
        )


def finish(chunk: Chunk, mixed: Tensor, streams: tuple[Tensor, Tensor], outs: tuple[Tensor, Tensor], *,
           bias: Tensor | None = None, gate: Tensor | None = None, hard: bool, residual: bool) -> None:
    """Write gate * (product + bias) into ``outs``, with ``residual`` added to ``streams``."""
    grid = streams[0]
    kind = "hard" if hard else "soft" if residual else "split"
    with on_device(mixed):
        native.cuda_library().sync_exchange_finish(
            kind, dtype_name(grid), grid.shape, chunk_argument(chunk), *(tensor_argument(x) for x in (*streams, *outs)),
            mixed.data_ptr(), address(bias), address(gate), stream=stream_of(mixed),
        )
