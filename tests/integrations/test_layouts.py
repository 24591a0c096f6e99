"""Attention on tensors in a model's own layout."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from fourreal_kernels import axis_attention
from fourreal_kernels.integrations.layouts import attend

SIZES = dict(b=2, v=3, t=4, n=5, h=2, d=6)


def _in_layout(grid, order, joined):
    """A ``(B, V, T, N, H, D)`` tensor with its dims in ``order``, the first ``joined`` and the last two flattened."""
    moved = grid.permute(["bvtnhd".index(letter) for letter in order])
    return moved.flatten(-2).flatten(0, joined - 1).contiguous()


@pytest.mark.parametrize("axes", ["v", "vn|tn"])
@pytest.mark.parametrize("joined", [1, 2, 3])
@pytest.mark.parametrize("order", ["".join(order) + "hd" for order in permutations("bvtn")][::5])
def test_every_layout_is_the_same_attention(order, joined, axes):
    grids = torch.randn(3, *SIZES.values())
    expected = _in_layout(axis_attention(*grids, axes), order, joined)
    first = f"({' '.join(order[:joined])})"
    layout = " ".join([first, *order[joined:-2], "(h d)"])
    sizes = {letter: SIZES[letter] for letter in [*order[1:joined], "h"]}
    got = attend(*(_in_layout(grid, order, joined) for grid in grids), layout, axes, **sizes)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_absent_letters_have_size_one():
    q, k, v = torch.randn(3, 2 * 4, 5, 6)
    expected = axis_attention(*(x.view(2, 1, 4, 5, 1, 6) for x in (q, k, v)), "tn", scale=0.3).view(8, 5, 6)
    assert torch.equal(attend(q, k, v, "(b t) n d", "tn", t=4, scale=0.3), expected)


@pytest.mark.parametrize("fused", [False, True], ids=["tensors of their own", "slices of one projection"])
def test_nothing_is_moved(fused, monkeypatch):
    """The operator gets views of what was passed, and what it returns is passed on in the layout as a view."""
    from fourreal_kernels.integrations import layouts

    seen, attention = {}, layouts.axis_attention

    def watched(q, k, v, axes, **rest):
        seen["in"], seen["out"] = (q, k, v), attention(q, k, v, axes, **rest)
        return seen["out"]

    monkeypatch.setattr(layouts, "axis_attention", watched)
    shape = (2 * 3, 4 * 5, 12)
    given = torch.randn(*shape[:2], 36).chunk(3, -1) if fused else torch.randn(3, *shape).unbind(0)
    out = attend(*given, "(b v) (t n) (h d)", "vn", v=3, t=4, h=2)
    assert [x.data_ptr() for x in seen["in"]] == [x.data_ptr() for x in given]
    assert out.data_ptr() == seen["out"].data_ptr() and out.shape == shape


def test_gradients():
    q, k, v = torch.randn(3, 6, 20, 12).unbind(0)
    gradients = []
    for run in (
        lambda q, k, v: attend(q, k, v, "(b v) (t n) (h d)", "vn", v=3, t=4, h=2),
        lambda q, k, v: axis_attention(
            *(x.view(2, 3, 4, 5, 2, 6) for x in (q, k, v)), "vn"
        ).reshape(6, 20, 12),
    ):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        run(*inputs).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    "layout, sizes, error, message",
    [
        ("(b v) (t n) (d h)", dict(v=3, t=4, h=2), ValueError, "^layout: .*d last"),
        ("(b v) (t x) (h d)", dict(v=3, t=4, h=2), ValueError, "^layout: got .*letters of b, v, t, n, h and d"),
        ("(b v) (t v) (h d)", dict(v=3, t=4, h=2), ValueError, "^layout: .*at most once"),
        ("(b v (t n) (h d)", dict(v=3, t=4, h=2), ValueError, "^layout: got"),
        (7, {}, TypeError, "^layout: expected a string"),
        ("(b v) t n (h d)", dict(v=3, t=4, h=2), ValueError, r"^q: got shape \(6, 20, 12\), expected 4 dims"),
        ("(b v) (t n) (h d)", dict(v=4, t=4, h=2), ValueError, r"^q: got size 6 for \(b v\).*v=4"),
        ("(b v) (t n) (h d)", dict(v=3, t=4, n=4, h=2), ValueError, r"^q: got size 20 for \(t n\).*t=4, n=4"),
        ("(b v) (t n) (h d)", dict(v=3, h=2), ValueError, "^t: missing size; pass t=.*t and n share"),
        ("(b v) n (h d)", dict(v=3, t=4, h=2), ValueError, "^t: got a size for a letter that is not in layout"),
    ],
)
def test_bad_layouts(layout, sizes, error, message):
    x = torch.randn(6, 20, 12)
    with pytest.raises(error, match=message):
        attend(x, x, x, layout, "vn", **sizes)
