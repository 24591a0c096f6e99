"""Measures by how much single calls raise the peak memory of this process: memory_rise.py < cases, in JSON.

A case is [threads, call, variant, sizes (B, V, T, N, H, D)], the variant being the axes of an attention call, with its
dtype if that is not float32 ("vn bfloat16"), or the form of an exchange. Writes the rises in bytes, in JSON; null where
the system does not tell. All tensors exist before the call, but for the log-sum-exp that a forward returns.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.memory import peak_bytes
from fourreal_kernels import axis_attention, qk_norm_rope_, sync_exchange_
from fourreal_kernels.grid import parse_axes
from fourreal_kernels.ops.axis_attention import cpu


def filled(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Every page written, so that it is in memory."""
    return torch.full(shape, 0.01, dtype=dtype)


def axes_and_dtype(variant: str) -> tuple[str, torch.dtype]:
    axes, _, dtype = variant.partition(" ")
    return axes, getattr(torch, dtype or "float32")


def forward(variant: str, sizes: list[int]) -> Callable[[], object]:
    axes, dtype = axes_and_dtype(variant)
    q, k, v, out = filled(4, *sizes, dtype=dtype)
    return lambda: axis_attention(q, k, v, axes, out=out, backend="cpu")


def backward(variant: str, sizes: list[int]) -> Callable[[], object]:
    axes, dtype = axes_and_dtype(variant)
    q, k, v, out, grad_out, *grads = filled(8, *sizes, dtype=dtype)
    lse = torch.full(sizes[:5], 50.0)
    scale = sizes[5] ** -0.5
    return lambda: cpu.backward(grad_out, None, q, k, v, out, lse, parse_axes(axes), scale, tuple(grads))


def norm_rope(_: str, sizes: list[int]) -> Callable[[], object]:
    q, k = filled(2, *sizes)
    weights, angles = filled(2, sizes[5]), filled(2, sizes[3], sizes[5] // 2)
    return lambda: qk_norm_rope_(q, k, *weights, *angles, backend="cpu")


def exchange(form: str, sizes: list[int]) -> Callable[[], object]:
    """With heads and channels together as channels."""
    channels = sizes[4] * sizes[5]
    view, time = filled(2, *sizes[:4], channels)
    weight = filled(*((2, 2, channels) if form == "per channel" else (2 * channels, 2 * channels)))
    return lambda: sync_exchange_(view, time, weight, kind="soft", backend="cpu")


CALLS = {"forward": forward, "backward": backward, "norm_rope": norm_rope, "exchange": exchange}


def rise(threads: int, call: str, variant: str, sizes: list[int]) -> int | None:
    torch.set_num_threads(threads)
    few_tokens = [*sizes[:3], min(sizes[3], 64), *sizes[4:]]
    CALLS[call](variant, few_tokens)()  # code pages, and the stacks of the threads
    return peak_bytes(CALLS[call](variant, sizes), torch.device("cpu"))[1]


if __name__ == "__main__":
    gc.freeze()  # every measurement collects: what was imported need not be walked each time
    json.dump([rise(*case) for case in json.load(sys.stdin)], sys.stdout)
