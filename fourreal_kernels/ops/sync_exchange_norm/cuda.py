"""The fused exchange by compiled CUDA kernels: per channel in one pass over each row; dense around torch's GEMM.

A dense exchange goes through scratch of at most 32 MiB (256 rows at least), one chunk of rows after the other: a pass
lays both streams, with their residual, side by side; torch's GEMM; a pass from its product to the four results.

The backward per channel is one pass too, for up to 3072 channels, a multiple of 8, in rows that start at 16 bytes.
Where that does not hold, and for dense weights, it is that of the formulas in PyTorch, with its temporaries in fp32.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ... import native
from ..checks import contiguous_parameter
from ..cuda_support import on_device, stream_of
from ..sync_exchange import cuda as exchange
from ..sync_exchange.call import ExchangeCall, is_per_channel
from ..sync_exchange.compiled import address
from ..sync_exchange.cuda_rows import chunk_argument, dtype_name, stage, tensor_argument
from ..sync_exchange.gpu_chunks import Chunk, chunks, launch_grids, multiply_in_chunks, rows_of_entry
from . import cuda_backward, formulas
from .call import ExchangeNormTensors

_MOST_CHANNELS = 5120
"""The threads of one block hold a row of both streams in registers."""

Grids = tuple[Tensor, ...]


def unavailable() -> str | None:
    return exchange.unavailable()


def refusal(call: ExchangeCall) -> str | None:
    if reason := exchange.refusal(call):
        return reason
    if call.shape[-1] > _MOST_CHANNELS:
        return f"its kernel takes up to {_MOST_CHANNELS} channels, got {call.shape[-1]}"
    return None


def forward(tensors: ExchangeNormTensors, kind: str, eps: float, out_view: Tensor, out_time: Tensor,
            view_norm: Tensor, time_norm: Tensor) -> None:
    """Write the exchanged streams and their norms into the last four, which may be the streams and the branches.

    Asynchronous on the current stream of their device.
    """
    parameters = _Parameters(*(contiguous_parameter(x) for x in (
        *tensors.exchange_parameters(), tensors.branch_gate, tensors.norm_scale, tensors.norm_shift)))
    run = _per_channel if is_per_channel(tensors.weight, kind, tensors.view.shape[-1]) else _dense
    streams = (tensors.view, tensors.time, tensors.view_branch, tensors.time_branch)
    for grids in launch_grids((*streams, out_view, out_time, view_norm, time_norm)):
        run(grids, parameters, kind, eps)


def backward(grads: tuple[Tensor, Tensor, Tensor, Tensor], tensors: ExchangeNormTensors, kind: str,
             eps: float) -> dict[str, Tensor | None]:
    """Gradients by the name of the argument; None for absent arguments. ``grads`` are those of the four results."""
    if is_per_channel(tensors.weight, kind, tensors.view.shape[-1]):
        gradients = cuda_backward.backward(grads, tensors, kind, eps)
        if gradients is not None:
            return gradients
    return formulas.backward(grads, tensors, kind, eps)


class _Parameters(NamedTuple):
    """Contiguous."""

    weight: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    gate: Tensor | None
    branch_gate: Tensor | None
    norm_scale: Tensor
    norm_shift: Tensor


def _per_channel(grids: Grids, parameters: _Parameters, kind: str, eps: float) -> None:
    _launch(Chunk(0, grids[0].shape[0], 0, rows_of_entry(grids[0])), None, grids, parameters, kind, eps)


def _dense(grids: Grids, parameters: _Parameters, kind: str, eps: float) -> None:
    matrix = parameters.weight.t()
    multiply_in_chunks(
        chunks(0, grids[0].shape[0], rows_of_entry(grids[0]), sum(matrix.shape) * matrix.element_size()), matrix,
        lambda part, staged: stage(part, staged, grids[:2], scale=parameters.input_scale, branches=grids[2:4],
                                   branch_gate=parameters.branch_gate),
        lambda part, mixed: _launch(part, mixed, grids, parameters, kind, eps),
    )


def _launch(chunk: Chunk, mixed: Tensor | None, grids: Grids, parameters: _Parameters, kind: str, eps: float) -> None:
    """``grids``: both streams, both branches, both results, both norms."""
    grid = grids[0]
    pairs = [tensor_argument(x) for x in grids]
    weights, of_norm = [address(x) for x in parameters[:4]], [address(x) for x in parameters[4:]]
    with on_device(grid):
        native.cuda_library().sync_exchange_norm(
            kind, dtype_name(grid), grid.shape, chunk_argument(chunk), *pairs[:2], *pairs[4:6], *weights,
            (*pairs[2:4], *pairs[6:], *of_norm, eps), address(mixed), stream=stream_of(grid),
        )
