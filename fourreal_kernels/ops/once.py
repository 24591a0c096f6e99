"""Checks that are not repeated for arguments of a layout that has passed them.

A model makes the same few calls over and over; on small grids their checks took as long as the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps

import torch
from torch import Tensor

from .. import native

_MOST_LAYOUTS = 256


def once_per_layout(check: Callable[..., None]) -> Callable[..., None]:
    """Remember the layouts of the arguments that ``check`` accepts, and accept those without asking it again.

    Of a tensor ``check`` may ask for its shape, strides, dtype, device and ``requires_grad``, never for its values or
    its address; of anything else, for all there is; and whether grad is enabled. Arguments are positional.
    What it refuses is not remembered: it raises every time. Safe to call from several threads.
    """
    accepted: set[Hashable] = set()

    @wraps(check)
    def checked(*arguments: object) -> None:
        if torch.compiler.is_compiling():
            return check(*arguments)
        layout = torch.is_grad_enabled(), _layout(arguments)
        if layout in accepted:
            return None
        check(*arguments)
        if layout[1] is not None:
            if len(accepted) >= _MOST_LAYOUTS:
                accepted.clear()
            accepted.add(layout)
        return None

    return checked


def _layout(arguments: tuple[object, ...]) -> Hashable | None:
    """Equal for arguments that a check cannot tell apart; None for those it should always see."""
    library = native.cpu_library()
    layout = library.layout(arguments) if library else None
    return _layout_in_python(arguments) if layout is None else layout


def _layout_in_python(arguments: tuple[object, ...]) -> Hashable | None:
    try:
        layout = tuple(
            (x.shape, x.stride(), x.dtype, x.device, x.requires_grad) if isinstance(x, Tensor) else (type(x), x)
            for x in arguments
        )
        hash(layout)
    except (TypeError, RuntimeError):  # something unhashable, a symbolic size, no strides
        return None
    return layout
