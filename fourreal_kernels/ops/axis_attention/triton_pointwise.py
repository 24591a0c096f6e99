"""Pointwise attention by Triton kernels that read every byte once; longer sequences go to the key-list kernels.

Written for compute capability 8.0 and newer; compiled ahead of time and run under Triton's interpreter by the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ...grid import Axes
from ...tuning import config
from ..checks import copy_back, unit_stride_like
from ..triton_access import on_device, power_of_two, stride_unit, strides_in
from ..triton_support import arch_of

ROWS = 64
_LARGEST_HEAD_DIM = 128
_DIMS = {"v": 1, "t": 2}
UNALIGNED_WARPS = 8
"""Addresses of single elements, where rows do not start at multiples of 16 bytes, fill the registers of fewer."""


@dataclass(frozen=True)
class Tile:
    """How the entries of a sequence are laid out in the rows of a tile: i-th of one axis, j-th of another.

    ``entry_dims``: their dims in the grid, None for a second axis that is not there; ``outer_dim``: the dim of V and T
    that is not attended over, None where both are.
    """

    entry_dims: tuple[int, int | None]
    outer_dim: int | None
    entries: tuple[int, int]
    union: bool

    @classmethod
    def of(cls, axes: Axes, shape: Sequence[int]) -> Tile:
        letters = "".join(axes.groups)
        if len(letters) == 1:
            dim = _DIMS[letters]
            return cls((dim, None), 3 - dim, (shape[dim], 1), False)
        # rows are counted with j rounded up to a power of two
        i, j = min((1, 2), (2, 1), key=lambda dims: shape[dims[0]] * power_of_two(shape[dims[1]]))
        return cls((i, j), None, (shape[i], shape[j]), axes.is_union)

    @property
    def inner(self) -> int:
        return power_of_two(self.entries[1])

    @property
    def lines(self) -> int:
        """Positions in a tile: the largest power of two that fits."""
        fit = ROWS // (self.entries[0] * self.inner)
        return 1 << (fit.bit_length() - 1) if fit else 0

    def seen(self, x: Tensor) -> Tensor:
        """``x (B, V, T, N, H, ...)`` as the kernel sees it: (B, other axis, N, H, i, j, ...)."""
        i, j = self.entry_dims
        if j is None:
            return x.permute(0, self.outer_dim, 3, 4, i, *range(5, x.ndim)).unsqueeze(5)
        return x.permute(0, 3, 4, i, j, *range(5, x.ndim)).unsqueeze(1)


def supports(axes: Axes, shape: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether the sequences of ``axes`` on a grid ``(B, V, T, N, H, D)`` fit a tile of these kernels.

    fp32 does not: its products of 64 rows by 64 rows take more registers than there are.
    """
    fits = axes.is_pointwise and Tile.of(axes, shape).lines > 0
    return fits and dtype != torch.float32 and shape[-1] <= _LARGEST_HEAD_DIM


def forward_pointwise(q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``."""
    if not supports(axes, q.shape, q.dtype):
        from .triton_launch import forward

        forward(q, k, v, axes, scale, out, lse)
        return
    from .triton_pointwise_kernels import forward_kernel

    written = unit_stride_like(out)
    streams = {"q": q, "k": k, "v": v, "out": written}
    programs, arguments = _arguments("pointwise_forward", Tile.of(axes, q.shape), streams, {"lse": lse})
    with on_device(q):
        forward_kernel[(programs,)](q, k, v, written, lse, scale, **arguments)
    copy_back(written, out)


def backward_pointwise(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write dq, dk, dv into ``grads``. ``grad_out`` has a contiguous last dim."""
    # addresses of single elements would not fit the registers
    unaligned = stride_unit(grad_out, q, k, v, out, *grads) == 1
    if unaligned or not supports(axes, q.shape, q.dtype):
        from .triton_launch import backward

        backward(grad_out, grad_lse, q, k, v, out, lse, axes, scale, grads)
        return
    from .triton_pointwise_kernels import backward_kernel

    out = out if out.stride(-1) == 1 else out.contiguous()
    written = [unit_stride_like(x) for x in grads]
    names = ("grad_out", "q", "k", "v", "out", "dq", "dk", "dv")
    streams = dict(zip(names, (grad_out, q, k, v, out, *written), strict=True))
    rows = {"lse": lse, "grad_lse": lse if grad_lse is None else grad_lse}
    programs, arguments = _arguments("pointwise_backward", Tile.of(axes, q.shape), streams, rows)
    with on_device(q):
        backward_kernel[(programs,)](grad_out, grad_lse, q, k, v, out, lse, *written, scale, **arguments)
    for x, result in zip(written, grads, strict=True):
        copy_back(x, result)


def _arguments(
    kernel: str, tile: Tile, streams: dict[str, Tensor], rows: dict[str, Tensor]
) -> tuple[int, dict[str, object]]:
    """The number of programs, and sizes, strides, constants and options by name.

    ``streams`` and ``rows``: tensors ``(B, V, T, N, H, D)`` and ``(B, V, T, N, H)`` by the prefix of their strides.
    """
    q = streams["q"]
    batch, outer, tokens, heads, *entries, head_dim = tile.seen(q).shape
    positions = tokens * heads
    blocks = -(-positions // tile.lines)
    unit = stride_unit(*streams.values())
    options = config(
        kernel, arch=arch_of(q.device), head_dim=head_dim, length=prod(entries), dtype_bytes=q.element_size()
    )
    if unit == 1:
        options["num_warps"] = max(UNALIGNED_WARPS, options["num_warps"])
    strides = {}
    for name, x in (streams | {name: x.unsqueeze(-1) for name, x in rows.items()}).items():
        in_units = strides_in(unit if name in streams else 1, tile.seen(x))
        strides |= {f"{name}_{dim}": stride for dim, stride in zip("bonhij", in_units, strict=True)}
    sizes = {"outer_entries": entries[0], "inner_entries": entries[1], "outer": outer, "positions": positions,
             "heads": heads, "blocks": blocks}
    constants = {"D": head_dim, "BLOCK_D": max(16, power_of_two(head_dim)), "ROWS": ROWS, "LINES": tile.lines,
                 "INNER": tile.inner, "UNIT": unit, "UNION": tile.union}
    return batch * outer * blocks, {**sizes, **strides, **constants, **options}
