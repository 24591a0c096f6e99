"""Attention over ``"v"``, ``"t"``, ``"vt"`` and ``"v|t"`` by Triton kernels: forward, backward, strides, NaN."""

from __future__ import annotations

import pytest
import torch

from attention_cases import allowed_pairs, dense_attention, random_qkv
from fourreal_kernels import axis_attention
from fourreal_kernels.grid import parse_axes
from fourreal_kernels.ops.axis_attention import triton_pointwise
from op_layouts import LAYOUTS, STRIDED
from op_numerics import assert_close_as_pytorch, bitwise_equal, dtype_name, poisoned

AXES = ("v", "t", "vt", "v|t")
LOW = (torch.bfloat16, torch.float16)
SHAPES = [(2, 3, 2, 7, 2, 64), (1, 1, 8, 33, 1, 40), (1, 5, 1, 10, 2, 128), (1, 1, 1, 1, 1, 16), (1, 3, 13, 2, 1, 24)]


@pytest.fixture(autouse=True)
def only_the_pointwise_kernels(monkeypatch):
    """A call that these kernels would pass on to others fails the test."""
    def passed_on(*arguments):
        raise AssertionError("the call was passed on to the key-list kernels")

    from fourreal_kernels.ops.axis_attention import triton_launch

    monkeypatch.setattr(triton_launch, "forward", passed_on)
    monkeypatch.setattr(triton_launch, "backward", passed_on)


def attention(*qkv, axes, **options):
    return axis_attention(*qkv, axes, return_lse=True, backend="triton", **options)


def lse_error(lse, expected):
    return (lse.double() - expected).abs().max().item()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", LOW, ids=dtype_name)
@pytest.mark.parametrize("axes", AXES)
def test_dense_mask(axes, dtype, shape):
    qkv = random_qkv(*shape, dtype=dtype)
    out, lse = attention(*qkv, axes=axes)
    expected, expected_lse = dense_attention(*(x.double() for x in qkv), axes)
    assert_close_as_pytorch(out, expected, dense_attention(*qkv, axes)[0])
    assert lse.dtype == torch.float32 and lse_error(lse, expected_lse) < 1e-5 * max(1, expected_lse.abs().max())


@pytest.mark.parametrize("sizes", [(64, 1), (33, 2), (21, 1), (2, 17)], ids=str)
def test_long_and_odd_sequences(sizes):
    views, times = sizes
    qkv = random_qkv(1, views, times, 3, 1, 16, dtype=torch.bfloat16)
    axes = "v" if views > times else "t"
    expected, _ = dense_attention(*(x.double() for x in qkv), axes)
    assert_close_as_pytorch(attention(*qkv, axes=axes)[0], expected, dense_attention(*qkv, axes)[0])


@pytest.mark.parametrize("sizes", [(8, 8), (3, 16), (16, 4), (5, 7)], ids=str)
def test_unions_of_many_frames(sizes):
    qkv = random_qkv(1, *sizes, 2, 1, 32, dtype=torch.bfloat16)
    expected, _ = dense_attention(*(x.double() for x in qkv), "v|t")
    assert_close_as_pytorch(attention(*qkv, axes="v|t")[0], expected, dense_attention(*qkv, "v|t")[0])


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("axes", ["v", "v|t"])
def test_strides_do_not_change_the_bits(axes, layout):
    qkv = random_qkv(2, 3, 2, 3, 1, 16, dtype=torch.bfloat16)
    expected = attention(*qkv, axes=axes)
    other = "heads_first" if layout == "time_first" else "time_first"
    strided = [LAYOUTS[name](x) for name, x in zip((layout, other, layout), qkv, strict=True)]
    for actual, wanted in zip(attention(*strided, axes=axes), expected, strict=True):
        assert bitwise_equal(actual, wanted)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (3, 1, 0, 2, 4, 5)], ids=["contiguous", "permuted"])
@pytest.mark.parametrize("axes", AXES)
def test_writes_into_out_and_nothing_else(axes, order):
    shape = (1, 3, 2, 5, 2, 40)
    qkv = random_qkv(*shape, dtype=torch.bfloat16)
    region = poisoned(shape, torch.bfloat16, order)
    axis_attention(*qkv, axes, out=region.destination, backend="triton")
    region.assert_written_exactly()
    assert bitwise_equal(region.destination, attention(*qkv, axes=axes)[0])


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("poisoned_input, value", [(0, float("nan")), (1, float("inf")), (2, float("nan")),
                                                   (2, float("inf"))], ids=str)
@pytest.mark.parametrize("axes", ["v", "v|t"])
def test_what_is_not_finite_stays_in_its_sequences(axes, poisoned_input, value):
    """Also in the gradients: every other token keeps its bits."""
    shape = (1, 3, 2, 5, 1, 16)
    qkv = random_qkv(*shape, dtype=torch.bfloat16)
    grad = torch.randn(shape).bfloat16()

    def everything():
        leaves = [x.clone().requires_grad_() for x in qkv]
        out, lse = attention(*leaves, axes=axes)
        return [out.detach(), lse.detach(), *torch.autograd.grad(out, leaves, grad)]

    clean = everything()
    qkv[poisoned_input][0, 1, 1, 3, 0, 7] = value
    seen = allowed_pairs(axes, *shape[1:4])
    victim = torch.arange(30).view(3, 2, 5)[1, 1, 3]
    near = seen[victim]
    # a token that shares a key or query with a neighbour of the victim is reached by the gradients
    reached = [near, near, *[seen[near].any(0)] * 3]
    for before, after, mask in zip(clean, everything(), reached, strict=True):
        mask = mask.view(3, 2, 5)
        assert bitwise_equal(before[0, ~mask], after[0, ~mask])
    if poisoned_input == 2:
        assert not everything()[0][0, near.view(3, 2, 5), 0, 7].isfinite().any()


@pytest.mark.parametrize("magnitude", [80.0, -80.0])
def test_large_scores(magnitude):
    q, k, v = random_qkv(1, 4, 4, 3, 1, 16, dtype=torch.bfloat16)
    q, k = q * abs(magnitude), k.sign() * magnitude / 16
    expected, expected_lse = dense_attention(q.double(), k.double(), v.double(), "v|t")
    out, lse = attention(q, k, v, axes="v|t")
    assert_close_as_pytorch(out, expected, dense_attention(q, k, v, "v|t")[0])
    assert lse_error(lse, expected_lse) < 1e-5 * expected_lse.abs().max()


def check_gradients(shape, dtype, axes, layout="contiguous", with_lse=True):
    qkv = random_qkv(*shape, dtype=dtype)
    grad, grad_lse = torch.randn(shape).to(dtype), torch.randn(shape[:5])

    def gradients(function, to_dtype):
        leaves = [x.detach().to(to_dtype).requires_grad_() for x in qkv]
        out, lse = function(*leaves, axes)
        outs, grads = [out], [grad.to(to_dtype)]
        if with_lse:
            outs, grads = [out, lse], [*grads, grad_lse.to(lse.dtype)]
        return torch.autograd.grad(outs, leaves, grads)

    leaves = [LAYOUTS[layout](x).requires_grad_() for x in qkv]
    out, lse = attention(*leaves, axes=axes)
    outs = [out, lse] if with_lse else [out]
    actual = torch.autograd.grad(outs, leaves, [LAYOUTS[layout](grad), grad_lse][: len(outs)])
    exact, plain = gradients(dense_attention, torch.float64), gradients(dense_attention, dtype)
    for gradient, wanted, eager in zip(actual, exact, plain, strict=True):
        assert_close_as_pytorch(gradient, wanted, eager)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("axes", AXES)
def test_gradients(axes, shape):
    check_gradients(shape, torch.bfloat16, axes)


@pytest.mark.parametrize("axes", AXES)
def test_gradients_in_fp16_of_out_alone(axes):
    check_gradients((2, 3, 2, 7, 1, 40), torch.float16, axes, with_lse=False)


@pytest.mark.parametrize("layout", [name for name in STRIDED if name != "sliced"])
def test_gradients_of_strided_tensors(layout):
    check_gradients((1, 3, 2, 5, 2, 16), torch.bfloat16, "v|t", layout)


def test_backward_repeats_bitwise():
    leaves = [x.requires_grad_() for x in random_qkv(1, 3, 2, 9, 2, 32, dtype=torch.bfloat16)]
    out, _ = attention(*leaves, axes="v|t")
    grad = torch.randn_like(out)
    first = torch.autograd.grad(out, leaves, grad, retain_graph=True)
    assert all(bitwise_equal(a, b) for a, b in zip(first, torch.autograd.grad(out, leaves, grad), strict=True))


def test_supports_sequences_that_fit_a_tile():
    def supported(axes, views, times, head_dim=64, dtype=torch.bfloat16):
        return triton_pointwise.supports(parse_axes(axes), (1, views, times, 5, 2, head_dim), dtype)

    assert supported("v", 64, 3) and not supported("v", 65, 3)
    assert supported("v|t", 13, 4) and supported("v|t", 4, 13) and not supported("v|t", 13, 8)
    assert supported("vt", 8, 8) and not supported("vt", 9, 8)
    assert not supported("v", 8, 3, head_dim=129) and not supported("v", 8, 3, dtype=torch.float32)
    assert not supported("vn", 2, 3)
