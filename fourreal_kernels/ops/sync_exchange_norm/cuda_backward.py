"""Backward of the fused exchange per channel by a compiled CUDA kernel: one pass over the rows of all tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ..checks import contiguous_parameter, unit_stride_gradient
from ..cuda_support import on_device, stream_of
from ..sync_exchange.compiled import address
from ..sync_exchange.cuda_rows import dtype_name, tensor_argument
from ..sync_exchange.gpu_chunks import launch_grids, rows_of_entry
from ..sync_exchange.parameter_gradients import channel_parameter_gradients
from .call import ExchangeNormTensors

_MOST_CHANNELS = 3072
_CHANNELS = 8
"""Of a thread."""
_BYTES = 16
"""Of an access."""


def backward(grads: tuple[Tensor, Tensor, Tensor, Tensor], tensors: ExchangeNormTensors, kind: str,
             eps: float) -> dict[str, Tensor | None] | None:
    """Gradients by the name of the argument, None for absent ones; or None where the kernel cannot run.

    Those of streams and branches are in their dtype, of parameters in float64, from sums in fp32 of blocks of rows. The
    scratch is ``(B, blocks, 3K + 6, C)`` fp32, K = 1 (hard) or 2 (soft): up to 40 MB on a chip of 132 multiprocessors.
    """
    view, batch, channels = tensors.view, tensors.view.shape[0], tensors.view.shape[-1]
    results = [torch.empty_like(x) for x in (tensors.view, tensors.time) * 2]
    streams = (tensors.view, tensors.time, tensors.view_branch, tensors.time_branch)
    given = (*(unit_stride_gradient(x) for x in grads), *streams, *results)
    parameters = [contiguous_parameter(x) for x in (
        *tensors.exchange_parameters(), tensors.branch_gate, tensors.norm_scale)]
    parts = list(launch_grids(given))
    resident = _resident_blocks(view, kind)
    if channels > _MOST_CHANNELS or resident == 0 or not _start_at_16_bytes(parts, parameters):
        return None
    lists = 9 if kind == "hard" else 12
    sums = torch.zeros(batch, lists, channels, dtype=torch.float64, device=view.device)
    for grids in parts:
        blocks = max(1, min(resident // batch, rows_of_entry(grids[0])))
        partial = torch.empty(batch, blocks, lists, channels, dtype=torch.float32, device=view.device)
        with on_device(view):
            native.cuda_library().sync_exchange_norm_backward(
                kind, dtype_name(view), grids[0].shape, [tensor_argument(x) for x in grids],
                *(address(x) for x in parameters), eps, partial.data_ptr(), blocks, stream=stream_of(view),
            )
        sums += partial.sum(1, dtype=torch.float64)
    of_streams = dict(zip(("view", "time", "view_branch", "time_branch"), results, strict=True))
    return of_streams | _parameter_gradients(sums, tensors)


def _parameter_gradients(sums: Tensor, tensors: ExchangeNormTensors) -> dict[str, Tensor | None]:
    of_exchange, of_norm = sums[:, :-6], sums[:, -6:].unflatten(1, (3, 2)).flatten(2)
    names = ("weight", "bias", "input_scale", "gate")
    gradients = dict(zip(names, channel_parameter_gradients(of_exchange, *tensors.exchange_parameters()), strict=True))
    shift, scale, branch_gate = of_norm.unbind(1)
    return gradients | {"norm_shift": shift, "norm_scale": scale,
                        "branch_gate": None if tensors.branch_gate is None else branch_gate}


def _resident_blocks(view: Tensor, kind: str) -> int:
    """How many blocks the device of ``view`` holds at once by their shared memory; 0 if not one."""
    if not view.is_cuda:
        return 2 * view.shape[0]
    properties = torch.cuda.get_device_properties(view.device)
    needed = native.cuda_library().sync_exchange_norm_backward_shared_bytes(kind, view.shape[-1])
    if needed > properties.shared_memory_per_block_optin:
        return 0
    return properties.multi_processor_count * max(1, properties.shared_memory_per_multiprocessor // needed)


def _start_at_16_bytes(parts: list[tuple[Tensor, ...]], parameters: list[Tensor | None]) -> bool:
    """Whether every row of every tensor does, and channels are whole packs."""
    grids = [x for grids in parts for x in grids]
    unit = _BYTES // grids[0].element_size()
    return grids[0].shape[-1] % _CHANNELS == 0 and all(
        x.data_ptr() % _BYTES == 0 for x in (*grids, *parameters) if x is not None
    ) and all(
        stride % unit == 0
        for x in grids for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1
    )
