"""Masks for FlexAttention against the operator."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from fourreal_kernels import axis_attention
from fourreal_kernels.grid import parse_axes
from fourreal_kernels.integrations.flex import mask_mod

VIEWS, TIMES, TOKENS = 3, 4, 5
LENGTH = VIEWS * TIMES * TOKENS
rows = pytest.mark.parametrize("axes", ["vn", "tn", "vn|tn", "v", "t", "v|t", "n", "vt", "vtn", "vn|t"])


@rows
def test_attention_under_the_mask_is_the_operator(axes):
    q, k, v = torch.randn(3, 2, VIEWS, TIMES, TOKENS, 2, 8)
    mask = create_mask(mask_mod(axes, VIEWS, TIMES, TOKENS), None, None, LENGTH, LENGTH, device="cpu")
    assert mask.sum(-1).unique().tolist() == [parse_axes(axes).keys_per_query(VIEWS, TIMES, TOKENS)]
    flat = (x.flatten(1, 3).transpose(1, 2) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*flat, attn_mask=mask)
    got = axis_attention(q, k, v, axes).flatten(1, 3).transpose(1, 2)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_takes_it():
    q, k, v = torch.randn(3, 1, VIEWS, TIMES, TOKENS, 2, 8)
    block_mask = create_block_mask(mask_mod("vn|tn", VIEWS, TIMES, TOKENS), None, None, LENGTH, LENGTH, device="cpu")
    got = flex_attention(*(x.flatten(1, 3).transpose(1, 2) for x in (q, k, v)), block_mask=block_mask)
    expected = axis_attention(q, k, v, "vn|tn").flatten(1, 3).transpose(1, 2)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes, name", [((0, 1, 1), "views"), ((1, 1.5, 1), "times"), ((1, 1, True), "tokens")])
def test_bad_sizes(sizes, name):
    with pytest.raises(ValueError, match=f"^{name}: got .*, expected an int of at least 1"):
        mask_mod("vn", *sizes)
