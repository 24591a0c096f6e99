"""Axis attention on tensors in the layout a model already has, in place of einops rearrangements around attention."""

from __future__ import annotations

import re
from math import prod

from torch import Tensor

from ..ops.axis_attention.api import axis_attention

_LETTERS = "bvtnhd"
_EXAMPLE = "'(b v) (t n) (h d)'"


def attend(
    q: Tensor, k: Tensor, v: Tensor, layout: str, axes: str, /, *, scale: float | None = None,
    backend: str | None = None, **sizes: int,
) -> Tensor:
    """:func:`fourreal_kernels.axis_attention` on tensors of any layout, without moving them.

    ::

        x = rearrange(x, "(b v) (t n) c -> (b t) (v n) c", v=V, t=T)                   # before
        out = rearrange(attention(q(x), k(x), v(x)), "(b t) (v n) c -> (b v) (t n) c", v=V, t=T)
        out = attend(q(x), k(x), v(x), "(b v) (t n) (h d)", "vn", v=V, t=T, h=H)       # after: x stays as it is

    Args:
        q, k, v: tensors of one shape, dtype and device, their last dim contiguous.
        layout: what each dim holds, as in einops: b batch, v views, t timesteps, n tokens of a frame, h heads, d head
            dim; each letter at most once, ``(...)`` joins letters into one dim, absent letters have size 1. ``d`` is
            the last letter.
        axes: the axes attended over, see :mod:`fourreal_kernels.grid`.
        scale: factor of the scores, ``D ** -0.5`` when None.
        backend: a backend name, which then never falls back; None takes the fastest.
        sizes: sizes of letters, such as ``v=8`` (the first five arguments are positional, so that v is free): all but
            at most one of every ``(...)``.

    Returns:
        the result in the layout and shape of ``q``.

    Raises:
        TypeError, ValueError: bad layout or sizes, a shape that does not fit them, or what ``axis_attention`` raises.
        NotImplementedError: the named backend cannot run this call.
    """
    groups = _parse(layout)
    unknown = sorted(set(sizes) - set("".join(groups)))
    if unknown:
        raise ValueError(f"{unknown[0]}: got a size for a letter that is not in layout {layout!r}")
    grids = [_to_grid(name, x, layout, groups, sizes) for name, x in (("q", q), ("k", k), ("v", v))]
    out = axis_attention(*grids, axes, scale=scale, backend=backend)
    return _from_grid(out, groups, q.shape)


def _parse(layout: str) -> list[str]:
    """The letters of each dim."""
    if not isinstance(layout, str):
        raise TypeError(f"layout: expected a string such as {_EXAMPLE}, got {type(layout).__name__}")
    dims = re.findall(r"\(([a-z ]+)\)|([a-z])", layout)
    groups = ["".join(joined.split()) or single for joined, single in dims]
    letters = "".join(groups)
    rest = re.sub(r"\([a-z ]+\)|[a-z]", "", layout).strip()
    if rest or len(set(letters)) != len(letters) or not set(letters) <= set(_LETTERS) or not letters.endswith("d"):
        raise ValueError(
            f"layout: got {layout!r}, expected letters of b, v, t, n, h and d, each at most once and d last, joined "
            f"into dims by (...), such as {_EXAMPLE}"
        )
    return groups


def _to_grid(name: str, x: Tensor, layout: str, groups: list[str], sizes: dict[str, int]) -> Tensor:
    """``(B, V, T, N, H, D)`` as a view."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.ndim != len(groups):
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected {len(groups)} dims for layout {layout!r}")
    for dim in reversed(range(x.ndim)):
        x = x.unflatten(dim, _split(name, x.shape[dim], groups[dim], layout, sizes))
    letters = "".join(groups)
    present = [letter for letter in _LETTERS if letter in letters]
    x = x.permute([letters.index(letter) for letter in present])
    for position, letter in enumerate(_LETTERS):
        if letter not in letters:
            x = x.unsqueeze(position)
    return x


def _split(name: str, size: int, group: str, layout: str, sizes: dict[str, int]) -> list[int]:
    """Sizes of the letters of one dim; at most one is left to be found."""
    free = [letter for letter in group if letter not in sizes]
    if len(free) > 1 and len(group) > 1:
        raise ValueError(
            f"{free[0]}: missing size; pass {free[0]}=... since {' and '.join(free)} share a dim in layout {layout!r}"
        )
    known = prod(sizes[letter] for letter in group if letter in sizes)
    if known < 1 or size % known or (not free and size != known):
        raise ValueError(
            f"{name}: got size {size} for ({' '.join(group)}) of layout {layout!r}, expected a multiple of the given "
            f"sizes {', '.join(f'{letter}={sizes[letter]}' for letter in group if letter in sizes)}"
        )
    return [sizes.get(letter, size // known) for letter in group]


def _from_grid(out: Tensor, groups: list[str], shape: tuple[int, ...]) -> Tensor:
    """Back to the layout; a view, since the operator's result lies in memory as q does."""
    letters = "".join(groups)
    for position in reversed(range(len(_LETTERS))):
        if _LETTERS[position] not in letters:
            out = out.squeeze(position)
    present = [letter for letter in _LETTERS if letter in letters]
    return out.permute([present.index(letter) for letter in letters]).reshape(shape)
