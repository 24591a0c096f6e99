"""Arguments of the Triton kernels of QK-norm and rotary embedding: sizes, strides in units, angle tables, blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...tuning import config
from ..triton_access import power_of_two, stride_unit, strides_in
from ..triton_support import arch_of

Integers = dict[str, int]


@dataclass
class Launch:
    """Of one kernel: the number of programs, its integers by name, its constants and its options."""

    programs: int
    integers: Integers
    constants: dict[str, object]
    options: Integers


def launch(kernel: str, grids: dict[str, Tensor], angles: tuple[Tensor | None, Tensor | None], norm: bool) -> Launch:
    """``grids``: tensors ``(B, V, T, N, H, D)`` by the prefix of their strides in the kernel."""
    first = next(iter(grids.values()))
    batch, views, times, tokens, heads, head_dim = first.shape
    block_d = max(2, power_of_two(head_dim))
    options = config(kernel, arch=arch_of(first.device), head_dim=head_dim, dtype_bytes=first.element_size())
    rows = max(1, options.pop("ELEMENTS") // block_d)
    blocks = -(-tokens * heads // (rows * options.get("STEPS", 1)))
    unit = stride_unit(*grids.values())
    integers = {"views": views, "times": times, "tokens": tokens, "heads": heads, "blocks": blocks}
    for name, x in grids.items():
        integers |= _named(name, "bvtnh", strides_in(unit, x))
    angle_unit = 0
    cos, sin = angles
    if cos is not None:
        angle_unit = stride_unit(cos, sin) if cos.stride(-1) == sin.stride(-1) == 1 else 0
        for name, x in (("cos", cos), ("sin", sin)):
            integers |= _named(name, "bvtnp", (*strides_in(max(1, angle_unit), x), x.stride(-1)))
    else:
        integers |= dict.fromkeys((f"{name}_{dim}" for name in ("cos", "sin") for dim in "bvtnp"), 0)
    constants = {"D": head_dim, "BLOCK_D": block_d, "ROWS": rows, "UNIT": unit, "NORM": norm,
                 "ROPE": cos is not None, "ANGLE_UNIT": angle_unit}
    return Launch(batch * views * times * blocks, integers, constants, options)


def _named(name: str, dims: str, strides: tuple[int, ...]) -> Integers:
    return {f"{name}_{dim}": stride for dim, stride in zip(dims, strides, strict=True)}


def angle_table(x: Tensor | None) -> Tensor | None:
    """As a five-dim view; broadcast dims have one entry."""
    if x is None:
        return None
    table = x.detach()
    for dim, stride in enumerate(table.stride()[:-1]):
        if stride == 0:
            table = table.narrow(dim, 0, 1)
    return table[(None,) * (5 - table.ndim)]


def partial_sums(programs: int, like: Tensor) -> Tensor:
    return torch.empty(programs, 2, like.shape[-1], dtype=torch.float32, device=like.device)
