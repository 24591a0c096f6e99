"""The axes of the grid as masks for PyTorch's FlexAttention, to compare with it or to combine with its other masks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..grid import GRID_AXES, parse_axes

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def mask_mod(axes: str, views: int, times: int, tokens: int) -> MaskMod:
    """The ``mask_mod`` of FlexAttention that attends as :func:`fourreal_kernels.axis_attention` does.

    FlexAttention takes ``(B, H, V*T*N, D)``; the tokens are those of a grid flattened in the order view, time, token::

        q.flatten(1, 3).transpose(1, 2)
        block_mask = create_block_mask(mask_mod("vn|tn", V, T, N), None, None, V * T * N, V * T * N)

    Args:
        axes: the axes attended over, see :mod:`fourreal_kernels.grid`.
        views, times, tokens: V, T and N of the grid.

    Returns:
        a function of ``(batch, head, query index, key index)`` that tells which keys a query sees.

    Raises:
        TypeError, ValueError: bad axes, or a size that is not an int of at least 1.
    """
    for name, size in (("views", views), ("times", times), ("tokens", tokens)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: got {size!r}, expected an int of at least 1")
    batch_axes = [[letter for letter in GRID_AXES if letter not in group] for group in parse_axes(axes).groups]

    def position(letter: str, index: Tensor) -> Tensor:
        if letter == "v":
            return index // (times * tokens)
        return index // tokens % times if letter == "t" else index % tokens

    def mask(batch: Tensor, head: Tensor, q_index: Tensor, kv_index: Tensor) -> Tensor:
        seen = q_index < 0
        for letters in batch_axes:
            same = q_index >= 0
            for letter in letters:
                same = same & (position(letter, q_index) == position(letter, kv_index))
            seen = seen | same
        return seen

    return mask
