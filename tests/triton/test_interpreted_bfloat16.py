"""The corrections that the other tests of this folder rest on."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _product(a, b, c, ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inner = tl.arange(0, INNER)
    x = tl.load(a + row * INNER + inner[None, :])
    y = tl.load(b + inner[:, None] * COLUMNS + column)
    tl.store(c + row * COLUMNS + column, tl.dot(x, y).to(tl.bfloat16))


@triton.jit
def _convert(x, y, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    tl.store(y + index, tl.load(x + index).to(y.dtype.element_ty))


def test_a_dot_of_bfloat16_is_that_of_torch_in_float32():
    a, b = torch.randn(16, 32).bfloat16(), torch.randn(32, 16).bfloat16()
    c = torch.empty(16, 16, dtype=torch.bfloat16)
    _product[(1,)](a, b, c, 16, 32, 16)
    expected = a.float() @ b.float()
    assert (c.float() - expected).abs().max() <= 2**-8 * expected.abs().max()


def test_casts_to_and_from_bfloat16_are_those_of_torch():
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.3895e38, 1e-40, -1e-45])
    x = torch.cat([torch.randn(1016) * torch.logspace(-30, 30, 1016), special])
    narrow, wide = torch.empty(1024, dtype=torch.bfloat16), torch.empty(1024)
    _convert[(1,)](x, narrow, 1024)
    _convert[(1,)](narrow, wide, 1024)
    torch.testing.assert_close(narrow, x.bfloat16(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(wide, x.bfloat16().float(), rtol=0, atol=0, equal_nan=True)
