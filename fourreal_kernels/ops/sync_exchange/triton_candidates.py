"""What ``fourreal tune`` measures of the exchange: the soft form on 8 x 8 frames of 576 tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..triton_cases import TuneTask
from ..triton_support import INTERPRETER
from ..triton_tuning import Typical, Workload, device, tasks

_OPERATORS = torch.ops.fourreal_kernels


def tuning_candidates(arch: str) -> list[TuneTask]:
    """A task per kernel and bucket; a length is the number of channels."""
    # small enough for the interpreter, where the tests call these workloads
    rows = (1, 1, 2, 3) if arch == INTERPRETER else (1, 8, 8, 576)
    typical = Typical(length=16 if arch == INTERPRETER else 1024)
    return [
        *tasks("sync_exchange", arch, _forward(rows, dense=False), typical),
        *tasks("sync_exchange_dense", arch, _forward(rows, dense=True), typical),
        *tasks("sync_exchange_backward", arch, _backward(rows), typical),
    ]


def _tensors(rows: tuple[int, ...], channels: int, dtype: torch.dtype, dense: bool) -> list[Tensor]:
    """view, time, weight, bias, input_scale, gate."""
    both = 2 * channels
    weight = (both, both) if dense else (2, 2, channels)
    shapes = ((*rows, channels), (*rows, channels), weight, (both,), (rows[0], both), (rows[0], both))
    tensors = [torch.randn(shape, device=device()).to(dtype) for shape in shapes]
    if dense:
        tensors[2] *= channels**-0.5
    return tensors


def _forward(rows: tuple[int, ...], dense: bool) -> Workload:
    def workload(head_dim: int, length: int, dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
        tensors = _tensors(rows, length, dtype, dense)
        return lambda: _OPERATORS.sync_exchange(*tensors, "soft", "triton", False)

    return workload


def _backward(rows: tuple[int, ...]) -> Workload:
    def workload(head_dim: int, length: int, dtype: torch.dtype) -> Callable[[], Sequence[Tensor]]:
        tensors = _tensors(rows, length, dtype, dense=False)
        grads = [torch.randn_like(x) for x in tensors[:2]]
        return lambda: _OPERATORS.sync_exchange_backward(*grads, *tensors, "soft", "triton")

    return workload
