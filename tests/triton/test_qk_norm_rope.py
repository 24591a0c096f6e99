"""``qk_norm_rope`` by Triton kernels: against complex multiplication in fp64, forward, backward and in place."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels import explain, qk_norm_rope, qk_norm_rope_
from op_layouts import LAYOUTS, STRIDED
from op_numerics import LOW_PRECISION, assert_close_as_pytorch, bitwise_equal, dtype_name, poisoned
from rope_formula import angles, complex_norm_rope, eager_norm_rope, norm_rope_arguments

PARTS = {"norm and rope": (True, True), "norm": (True, False), "rope": (False, True), "neither": (False, False)}
SHAPES = [(2, 1, 3, 7, 2, 64), (1, 1, 2, 65, 3, 40), (1, 2, 1, 100, 2, 128), (2, 1, 1, 1, 1, 6), (1, 1, 1, 300, 2, 48)]
ANGLE_SHAPES = {
    "per pair": (20,), "per token": (5, 20), "per time and token": (3, 5, 20), "per view": (2, 1, 1, 20),
    "one for all": (1, 1, 1, 1, 20), "full": (2, 2, 3, 5, 20),
}


def check_forward(arguments, eps=1e-6):
    q, k, q_weight, k_weight, cos, sin = arguments
    results = qk_norm_rope(*arguments, eps=eps, backend="triton")
    for actual, x, weight in zip(results, (q, k), (q_weight, k_weight), strict=True):
        assert_close_as_pytorch(
            actual, complex_norm_rope(x, weight, cos, sin, eps), eager_norm_rope(x, weight, cos, sin, eps)
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
def test_complex_rotation(dtype, shape):
    check_forward(norm_rope_arguments(shape, dtype))


@pytest.mark.parametrize("parts", PARTS)
def test_parts(parts):
    norm, rope = PARTS[parts]
    check_forward(norm_rope_arguments((2, 2, 1, 7, 2, 40), torch.bfloat16, norm=norm, rope=rope))


def test_odd_head_dim_without_rotation():
    check_forward(norm_rope_arguments((2, 2, 1, 7, 2, 7), rope=False))


@pytest.mark.parametrize("angle_dtype", [torch.float64, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("angle_shape", ANGLE_SHAPES)
def test_angles_of_any_shape_and_dtype(angle_shape, angle_dtype):
    check_forward(
        norm_rope_arguments((2, 2, 3, 5, 2, 40), angle_shape=ANGLE_SHAPES[angle_shape], angle_dtype=angle_dtype)
    )


@pytest.mark.parametrize("form", ["expanded", "transposed", "gaps"])
def test_strides_of_angles(form):
    q, k, q_weight, k_weight, cos, sin = norm_rope_arguments((2, 2, 3, 5, 2, 8), angle_shape=(3, 1, 4))
    strided = {
        "expanded": lambda x: x.expand(2, 2, 3, 5, 4),
        "transposed": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "gaps": lambda x: torch.stack([x, torch.full_like(x, float("nan"))], dim=-1)[..., 0],
    }[form]
    expected = qk_norm_rope(q, k, q_weight, k_weight, cos, sin, backend="triton")
    results = qk_norm_rope(q, k, q_weight, k_weight, strided(cos), strided(sin), backend="triton")
    assert all(bitwise_equal(actual, wanted) for actual, wanted in zip(results, expected, strict=True))


@pytest.mark.parametrize("magnitude", [1e-12, 1e15])
def test_tiny_and_huge_rows(magnitude):
    q, k, *rest = norm_rope_arguments((1, 2, 1, 5, 2, 16))
    check_forward((q * magnitude, k * magnitude, *rest))


@pytest.mark.parametrize("layout", STRIDED)
def test_strides_do_not_change_the_result(layout):
    q, k, *rest = norm_rope_arguments((2, 2, 3, 5, 2, 16), torch.bfloat16)
    expected = qk_norm_rope(q, k, *rest, backend="triton")
    strided = LAYOUTS[layout](q), LAYOUTS["heads_first"](k)
    for actual, wanted in zip(qk_norm_rope(*strided, *rest, backend="triton"), expected, strict=True):
        assert bitwise_equal(actual, wanted)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (3, 1, 0, 2, 4, 5)], ids=["contiguous", "permuted"])
def test_in_place_has_the_bits_of_the_functional_form_and_stays_inside(order, dtype):
    shape = (2, 2, 3, 7, 2, 40)
    q, k, *rest = norm_rope_arguments(shape, dtype)
    expected = qk_norm_rope(q, k, *rest, backend="triton")
    regions = [poisoned(shape, dtype, order) for _ in range(2)]
    for region, x in zip(regions, (q, k), strict=True):
        region.destination.copy_(x)
    qk_norm_rope_(*(region.destination for region in regions), *rest, backend="triton")
    for region, wanted in zip(regions, expected, strict=True):
        region.assert_written_exactly()
        assert bitwise_equal(region.destination, wanted)


def test_nan_stays_in_its_token_and_head():
    q, k, *rest = norm_rope_arguments((2, 2, 3, 5, 2, 8))
    clean = qk_norm_rope(q, k, *rest, backend="triton")
    q[1, 0, 2, 3, 1, 5] = float("nan")
    new_q, new_k = qk_norm_rope(q, k, *rest, backend="triton")
    reached = torch.zeros(q.shape[:-1], dtype=torch.bool)
    reached[1, 0, 2, 3, 1] = True
    assert new_q[reached].isnan().all() and bitwise_equal(new_q[~reached], clean[0][~reached])
    assert bitwise_equal(new_k, clean[1])


def gradients(values, cos, sin, grads, function, dtype):
    copies = [None if x is None else x.detach().to(dtype).requires_grad_() for x in values]
    outs = [function(copies[i], copies[i + 2], None if cos is None else cos.to(dtype),
                     None if sin is None else sin.to(dtype)) for i in (0, 1)]
    torch.autograd.backward(outs, [g.to(dtype) for g in grads])
    return [None if x is None else x.grad for x in copies]


def check_gradients(shape, dtype, norm=True, rope=True, layout="contiguous"):
    *values, cos, sin = norm_rope_arguments(shape, dtype, norm=norm, rope=rope)
    grads = [torch.randn(shape).to(dtype) for _ in range(2)]
    leaves = [LAYOUTS[layout](x) if x is not None and x.ndim == 6 else x for x in values]
    leaves = [None if x is None else x.requires_grad_() for x in leaves]
    outs = qk_norm_rope(*leaves, cos, sin, backend="triton")
    torch.autograd.backward(outs, [LAYOUTS[layout](g) for g in grads])
    exact = gradients(values, cos, sin, grads, complex_norm_rope, torch.float64)
    plain = gradients(values, cos, sin, grads, eager_norm_rope, dtype)
    for leaf, wanted, eager in zip(leaves, exact, plain, strict=True):
        if leaf is not None:
            assert_close_as_pytorch(leaf.grad, wanted, eager)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
def test_gradients(dtype, shape):
    check_gradients(shape, dtype)


@pytest.mark.parametrize("parts", ["norm", "rope", "neither"])
def test_gradients_of_parts(parts):
    check_gradients((1, 2, 2, 7, 2, 40), torch.float32, *PARTS[parts])


@pytest.mark.parametrize("layout", STRIDED)
def test_gradients_of_strided_tensors(layout):
    check_gradients((1, 2, 2, 5, 2, 16), torch.float32, layout=layout)


def test_expanded_grad_out_of_one_result():
    *values, cos, sin = norm_rope_arguments((2, 1, 2, 5, 2, 8))
    leaves = [x.requires_grad_() for x in values]
    qk_norm_rope(*leaves, cos, sin, backend="triton")[1].sum().backward()
    assert not leaves[0].grad.any() and not leaves[2].grad.any()
    copies = [leaves[i].detach().double().requires_grad_() for i in (1, 3)]
    plain = [leaves[i].detach().clone().requires_grad_() for i in (1, 3)]
    complex_norm_rope(*copies, cos, sin).sum().backward()
    eager_norm_rope(*plain, cos, sin).sum().backward()
    for leaf, wanted, eager in zip((leaves[1], leaves[3]), copies, plain, strict=True):
        assert_close_as_pytorch(leaf.grad, wanted.grad, eager.grad)


def test_overlapping_windows():
    """Tokens that are windows shifted by one element: a result of the same layout has no contiguous last dim."""
    stream = torch.randn(64, requires_grad=True)
    windows = stream.as_strided((1, 1, 1, 3, 1, 8), (64, 64, 64, 1, 64, 1))
    _, _, *rest = norm_rope_arguments((1, 1, 1, 3, 1, 8))
    grads = torch.randn(2, 1, 1, 1, 3, 1, 8).unbind(0)
    copy = windows.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    outs, wanted = (qk_norm_rope(x, x, *rest, backend="triton") for x in (windows, copy))
    assert all(bitwise_equal(actual.detach(), plain.detach()) for actual, plain in zip(outs, wanted, strict=True))
    assert bitwise_equal(torch.autograd.grad(outs, windows, grads)[0], torch.autograd.grad(wanted, copy, grads)[0])


def test_backward_repeats_bitwise():
    *values, cos, sin = norm_rope_arguments((2, 1, 2, 65, 2, 16))
    leaves = [x.requires_grad_() for x in values]
    outs = qk_norm_rope(*leaves, cos, sin, backend="triton")
    grads = [torch.randn_like(out) for out in outs]
    first = torch.autograd.grad(outs, leaves, grads, retain_graph=True)
    again = torch.autograd.grad(outs, leaves, grads)
    assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


def test_float64_is_refused_and_auto_takes_another_backend():
    arguments = norm_rope_arguments((1, 2, 2, 3, 2, 8), torch.float64)
    with pytest.raises(NotImplementedError, match="arithmetic is in float32, the call is in float64"):
        qk_norm_rope(*arguments, backend="triton")
    single = [x.float() for x in arguments]
    explanation = explain("qk_norm_rope", *single)
    assert explanation.chosen != "triton" and explanation.reasons["triton"] == "can run; only when named"


def test_angles_are_read_in_fp32_whatever_the_dtype_of_the_streams():
    """Angles of bfloat16 would be off by 2^-9; those given in fp32 are not rounded."""
    q, k, *_ = norm_rope_arguments((1, 1, 1, 7, 1, 16), torch.float16)
    cos, sin = angles(7, 8)
    rotated, _ = qk_norm_rope(q, k, None, None, cos, sin, backend="triton")
    exact = complex_norm_rope(q, None, cos, sin)
    assert (rotated.double() - exact).abs().max() <= 2**-11 * exact.abs().max()
