"""The per-channel exchange by Triton kernels: one pass over both streams, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ...tuning import config
from ..checks import contiguous_parameter, unit_stride_gradient
from ..triton_access import on_device, stride_unit, strides_in
from ..triton_support import arch_of
from . import triton_channel_kernels as kernels
from .call import ExchangeGradients
from .compiled import as_grids
from .parameter_gradients import channel_parameter_gradients
from .triton_rows import ROW_DIMS


def forward(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
            gate: Tensor | None, kind: str, out_view: Tensor, out_time: Tensor) -> None:
    parameters = [contiguous_parameter(x) for x in (weight, bias, input_scale, gate)]
    options = _options("sync_exchange", view)
    for grids in as_grids((view, time, out_view, out_time)):
        named = dict(zip(("view", "time", "out_view", "out_time"), grids, strict=True))
        integers = _sizes(grids[0], options["BLOCK_M"], options["BLOCK_C"])
        unit, strides = grid_strides(named)
        with on_device(view):
            kernels.forward_kernel[(_programs(integers, grids[0]),)](
                *grids, *parameters, **integers, **strides,
                C=view.shape[-1], HARD=kind == "hard", UNIT=unit, **options,
            )


def backward(grad_view: Tensor, grad_time: Tensor, view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None,
             input_scale: Tensor | None, gate: Tensor | None, kind: str) -> ExchangeGradients:
    """Gradients of the streams in their dtype; of the parameters in float64, from sums in fp32 of blocks of rows."""
    outs = torch.empty_like(view), torch.empty_like(time)
    tensors = (unit_stride_gradient(grad_view), unit_stride_gradient(grad_time), view, time, *outs)
    parameters = [contiguous_parameter(x) for x in (weight, input_scale, gate)]
    options = _options("sync_exchange_backward", view)
    channels, lists = view.shape[-1], 3 if kind == "hard" else 6
    sums = torch.zeros(view.shape[0], lists, channels, dtype=torch.float64, device=view.device)
    names = ("grad_view", "grad_time", "view", "time", "d_view", "d_time")
    for grids in as_grids(tensors):
        integers = _sizes(grids[0], options["BLOCK_M"] * options["STEPS"], options["BLOCK_C"])
        unit, strides = grid_strides(dict(zip(names, grids, strict=True)))
        partial = torch.empty(
            view.shape[0], integers["row_blocks"], lists, channels, dtype=torch.float32, device=view.device
        )
        with on_device(view):
            kernels.backward_kernel[(_programs(integers, grids[0]),)](
                *grids, *parameters, partial, **integers, **strides, C=channels, HARD=kind == "hard", UNIT=unit,
                **options,
            )
        sums += partial.sum(1, dtype=torch.float64)
    return ExchangeGradients(*outs, *channel_parameter_gradients(sums, weight, bias, input_scale, gate))


def grid_strides(named: dict[str, Tensor]) -> tuple[int, dict[str, int]]:
    """The unit of the strides of all grids, and those strides by their names in the kernels."""
    unit = stride_unit(*named.values())
    strides = {}
    for name, x in named.items():
        strides |= {f"{name}_{dim}": stride for dim, stride in zip(ROW_DIMS, strides_in(unit, x), strict=True)}
    return unit, strides


def _options(kernel: str, view: Tensor) -> dict[str, int]:
    return config(kernel, arch=arch_of(view.device), length=view.shape[-1], dtype_bytes=view.element_size())


def _sizes(grid: Tensor, rows_per_program: int, block_c: int) -> dict[str, int]:
    _, views, times, tokens, channels = grid.shape
    rows = views * times * tokens
    return {"times": times, "tokens": tokens, "rows": rows, "row_blocks": -(-rows // rows_per_program),
            "channel_blocks": -(-channels // block_c)}


def _programs(integers: dict[str, int], grid: Tensor) -> int:
    return grid.shape[0] * integers["row_blocks"] * integers["channel_blocks"]
