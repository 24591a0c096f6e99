"""Which calls of the Hopper attention are checked on the GPU, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from .block import Job, Result, Settings
from .helpers import op_numerics

AXES = ("tn", "vn", "vn|tn")
HEADS = 2
REPEATS = 20
_REHEARSED = ((1, 2, 2, 8),)
_LARGE = (1, 8, 8, 576)

Check = Callable[[str, str, tuple[int, ...], torch.dtype, str], Result]
LargeCheck = Callable[[str, str, tuple[int, ...]], Result]


def backend_of(settings: Settings) -> str:
    return "cuda" if settings.on_gpu else settings.backends[0]


def small_jobs(
    settings: Settings, shapes: Sequence[tuple[int, ...]], most_tokens_in_half: int, check: Check
) -> Iterator[Job]:
    """D = 64 and 128, every axis, in bfloat16, up to some N also in float16; then layouts.

    Args:
        shapes: ``(B, V, T, N)``, small ones first, so that a fault shows in its simplest form.
        check: takes backend, axes, the shape with heads and D, dtype and layout.
    """
    backend = backend_of(settings)
    for shape in _REHEARSED if settings.small else shapes:
        for head_dim in (64, 128):
            for axes in AXES:
                for dtype in (torch.bfloat16, torch.float16)[: 2 if shape[3] <= most_tokens_in_half else 1]:
                    full = (*shape, HEADS, head_dim)
                    name = f"{axes} {'x'.join(map(str, full))} {op_numerics.dtype_name(dtype)}"
                    yield name, lambda a=axes, s=full, d=dtype: check(backend, a, s, d, "contiguous")
    for layout in ("packed", "time_first", "heads_first", "stepped"):
        shape = (2, 3, 2, 8 if settings.small else 40, HEADS, 64)
        yield f"layout {layout}", lambda x=layout, s=shape: check(backend, "vn|tn", s, torch.bfloat16, x)


def large_jobs(settings: Settings, large: LargeCheck, repeats: LargeCheck) -> Iterator[Job]:
    """The paper's grid with one head, for its values and for bitwise repeats; none where everything is small."""
    if settings.small:
        return
    backend = backend_of(settings)
    for head_dim in (64, 128):
        for axes in AXES:
            shape = (*_LARGE, 1, head_dim)
            yield f"large: {axes} D {head_dim}", lambda a=axes, s=shape: large(backend, a, s)
            yield f"repeats: {axes} D {head_dim}", lambda a=axes, s=shape: repeats(backend, a, s)
