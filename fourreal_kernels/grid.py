"""The axes grammar and the shapes of the grid.

A 4D video is a grid of V views x T timesteps of frames with N tokens each. Activations are ``(B, V, T, N, C)``,
attention inputs ``(B, V, T, N, H, D)``. An axes string names the axes a token attends over jointly; the axes that are
not named are batch; ``|`` is the union of two groups inside one softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

VIEW = "vn"
"""View attention: all tokens of all views of the same timestep (a freeze-time video)."""
TIME = "tn"
"""Time attention: all tokens of all timesteps of the same view (a fixed-view video)."""
VIEW_OR_TIME = "vn|tn"
"""Fused view-time attention of 4Real-Video-V2: same view or same timestep, the own frame counted once."""

GRID_AXES = "vtn"
_AXIS_DIM = {"v": 1, "t": 2, "n": 3}


@dataclass(frozen=True)
class Axes:
    """Parsed axes: one group of letters, or two groups whose union is attended over.

    Letters inside a group and the groups themselves are in the order v, t, n, so equal meanings compare equal.
    """

    groups: tuple[str, ...]

    def __str__(self) -> str:
        return "|".join(self.groups)

    @property
    def is_union(self) -> bool:
        return len(self.groups) == 2

    @property
    def is_pointwise(self) -> bool:
        """True when no group spans the tokens of a frame, so that every sequence is as short as V, T or V*T."""
        return all("n" not in group for group in self.groups)

    @property
    def overlap(self) -> str:
        """The group on both sides of a union: ``"n"`` for ``"vn|tn"``; ``""``, the token itself, for ``"v|t"``."""
        first, second = self.groups
        return "".join(letter for letter in first if letter in second)

    def keys_per_query(self, views: int, times: int, tokens: int) -> int:
        """Number of keys each query attends to."""
        sizes = {"v": views, "t": times, "n": tokens}
        lengths = [_product(sizes[letter] for letter in group) for group in self.groups]
        if self.is_union:
            return sum(lengths) - _product(sizes[letter] for letter in self.overlap)
        return lengths[0]


def _product(values) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def parse_axes(axes: str) -> Axes:
    """Parse an axes string such as ``"vn"``, ``"v|t"`` or ``"vn|tn"``.

    A union in which one group contains the other is the larger group (``"v|vn"`` is ``"vn"``).

    Raises:
        TypeError: ``axes`` is not a string.
        ValueError: unknown letters, repeated letters, an empty group or more than two groups.
    """
    if not isinstance(axes, str):
        raise TypeError(f"axes: expected a string such as 'vn' or 'vn|tn', got {type(axes).__name__}")
    # torch.compile warns about every cached function it traces
    return _parse(axes) if torch.compiler.is_compiling() else _cached_parse(axes)


def _parse(axes: str) -> Axes:
    groups = {_parse_group(group, axes) for group in axes.split("|")}
    groups = {group for group in groups if not any(set(group) < set(other) for other in groups)}
    if len(groups) > 2:
        raise ValueError(f"axes: got {axes!r} with {len(groups)} groups, expected at most two joined by '|'")
    return Axes(tuple(sorted(groups, key=lambda group: [GRID_AXES.index(letter) for letter in group])))


_cached_parse = lru_cache(maxsize=None)(_parse)


def _parse_group(group: str, axes: str) -> str:
    if not group or len(set(group)) != len(group) or not set(group) <= set(GRID_AXES):
        raise ValueError(
            f"axes: got {axes!r}, expected letters of 'v' (view), 't' (time), 'n' (tokens of a frame), each at most "
            "once, in one group or two groups joined by '|', such as 'vn', 'tn', 'vn|tn', 'v', 't', 'v|t', 'n'"
        )
    return "".join(letter for letter in GRID_AXES if letter in group)


class Lines:
    """Rearranges ``(B, V, T, N, ...)`` into attention lines ``(lines, length, ...)`` for one group of axes, and back.

    ``to_lines`` returns a view when the strides allow it and a copy otherwise, as ``Tensor.reshape`` does. It serves
    the backends that are built from PyTorch's own operators; kernels with true strides do not need it.
    """

    def __init__(self, group: str, batch: int, views: int, times: int, tokens: int):
        inside = [_AXIS_DIM[letter] for letter in group]
        outside = [0] + [dim for dim in (1, 2, 3) if dim not in inside]
        self._order = outside + inside
        sizes = (batch, views, times, tokens)
        self._split = [sizes[dim] for dim in self._order]
        self.length = _product(sizes[dim] for dim in inside)
        self.count = _product(sizes[dim] for dim in outside)

    def to_lines(self, x: Tensor) -> Tensor:
        trailing = x.shape[4:]
        permuted = x.permute(*self._order, *range(4, x.ndim))
        return permuted.reshape(self.count, self.length, *trailing)

    def from_lines(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`to_lines` as a strided view of ``x``."""
        inverse = [self._order.index(dim) for dim in range(4)]
        grid = x.reshape(*self._split, *x.shape[2:])
        return grid.permute(*inverse, *range(4, grid.ndim))


def shared_keys(axes: Axes, views: int, times: int, tokens: int, device: torch.device) -> Tensor:
    """For a union: which keys of the second group's line the first group already holds.

    Returns:
        bool tensor ``(1, V, T, N, S2)`` over each query and the S2 keys of its line of the second group.
    """
    first, second = axes.groups
    lines = Lines(second, 1, views, times, tokens)
    same = torch.ones(lines.count, lines.length, lines.length, dtype=torch.bool, device=device)
    for letter in second:
        if letter not in first:
            size = (views, times, tokens)[GRID_AXES.index(letter)]
            shape = [1, 1, 1, 1]
            shape[_AXIS_DIM[letter]] = size
            index = torch.arange(size, device=device).view(shape).expand(1, views, times, tokens)
            index = lines.to_lines(index)
            same &= index[:, :, None] == index[:, None, :]
    return lines.from_lines(same)
