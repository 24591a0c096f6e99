"""Sweeps of N, V and T: seconds of ours against FLOPs, see ``sweep.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import fourreal_kernels as fk

from ..case import Case, Context, Workload, random_tensor
from ..references import AttentionCheck
from .attention import attention_case

_HEADS, _HEAD_DIM = 2, 64
_BASE = {"V": 8, "T": 8, "N": 144}
_SWEPT = {"N": (36, 64, 196, 324, 484), "V": (4, 12, 16), "T": (4, 12, 16)}


def cases(quick: bool) -> Iterator[Case]:
    """The common size first, then each of N, V and T changed alone."""
    changes: list[dict[str, int]] = [{}]
    changes += [{letter: size} for letter, sizes in _SWEPT.items() for size in sizes]
    if quick:
        changes = [{"N": 16}, {"N": 36}, {"N": 64}]
    for axes in ("tn", "vn", "vn|tn"):
        yield from (_case(axes, _BASE | change) for change in changes)


def _case(axes: str, changed: dict[str, int]) -> Case:
    sizes = {"B": 1, **changed, "H": _HEADS, "D": _HEAD_DIM}
    case = attention_case(axes, sizes, "forward", suite="growth")
    return replace(case, variant="sweep", main_peer="", build=lambda context: _build(context, axes, sizes))


def _build(context: Context, axes: str, sizes: dict[str, int]) -> Workload:
    q, k, v = (random_tensor(context, *sizes.values(), seed=seed) for seed in range(3))
    work = Workload(AttentionCheck(q, k, v, axes))
    work.ours(
        context, "axis_attention", lambda backend: lambda: (fk.axis_attention(q, k, v, axes, backend=backend),),
        q, k, v, axes,
    )
    return work
