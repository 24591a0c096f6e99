"""The per-channel exchange by the compiled CUDA kernels: one pass over both streams, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import native
from ..checks import contiguous_parameter, unit_stride_gradient
from ..cuda_support import on_device, stream_of
from .call import ExchangeGradients
from .compiled import address
from .cuda_rows import dtype_name, tensor_argument
from .gpu_chunks import launch_grids
from .parameter_gradients import channel_parameter_gradients


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    parameters = [contiguous_parameter(x) for x in (weight, bias, input_scale, gate)]
    for grids in launch_grids((view, time, out_view, out_time)):
        with on_device(view):
            native.cuda_library().sync_exchange_channel(
                kind, dtype_name(view), grids[0].shape, *(tensor_argument(x) for x in grids),
                *(address(x) for x in parameters), stream=stream_of(view),
            )


def backward(grad_view: Tensor, grad_time: Tensor, view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None,
             input_scale: Tensor | None, gate: Tensor | None, kind: str) -> ExchangeGradients:
    """Gradients of the streams in their dtype; of the parameters in float64, from sums in fp32 of blocks of rows.

    The scratch is ``(B, blocks, 3K, C)`` fp32, K = 1 (hard) or 2 (soft), with three blocks a multiprocessor for all
    batch entries and tiles of channels together: up to 10 MB on a chip of 132.
    """
    outs = torch.empty_like(view), torch.empty_like(time)
    tensors = (unit_stride_gradient(grad_view), unit_stride_gradient(grad_time), view, time, *outs)
    parameters = [contiguous_parameter(x) for x in (weight, input_scale, gate)]
    batch, channels, lists = view.shape[0], view.shape[-1], 3 if kind == "hard" else 6
    sums = torch.zeros(batch, lists, channels, dtype=torch.float64, device=view.device)
    library, dtype = native.cuda_library(), dtype_name(view)
    for grids in launch_grids(tensors):
        blocks = library.sync_exchange_channel_row_blocks(grids[0].shape, dtype, _multiprocessors(view))
        partial = torch.empty(batch, blocks, lists, channels, dtype=torch.float32, device=view.device)
        with on_device(view):
            library.sync_exchange_channel_backward(
                kind, dtype, grids[0].shape, *(tensor_argument(x) for x in grids), *(address(x) for x in parameters),
                partial.data_ptr(), blocks, stream=stream_of(view),
            )
        sums += partial.sum(1, dtype=torch.float64)
    return ExchangeGradients(*outs, *channel_parameter_gradients(sums, weight, bias, input_scale, gate))


def _multiprocessors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
