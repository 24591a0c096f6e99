"""``qk_norm_rope`` against complex multiplication in fp64, for every backend."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels import explain, qk_norm_rope
from op_backends import backends, can_run
from op_layouts import LAYOUTS, STRIDED
from op_numerics import DTYPES, LOW_PRECISION, assert_close_as_pytorch, bitwise_equal, dtype_name
from rope_formula import complex_norm_rope, eager_norm_rope, norm_rope_arguments

BACKENDS = backends("qk_norm_rope")
PARTS = {"norm and rope": (True, True), "norm": (True, False), "rope": (False, True), "neither": (False, False)}
SHAPES = [(3, 2, 3, 5, 2, 16), (3, 1, 4, 5, 1, 40), (3, 4, 1, 7, 2, 64), (1, 2, 3, 1, 3, 2), (1, 1, 1, 1, 1, 6),
          (1, 1, 2, 390, 1, 128)]
ANGLE_SHAPES = {
    "per pair": (4,), "per token": (5, 4), "per time and token": (3, 5, 4), "per time": (3, 1, 4),
    "per view": (2, 1, 1, 4), "per batch": (2, 1, 1, 1, 4), "per view and time, batch of one": (1, 2, 3, 1, 4),
    "one for all": (1, 1, 1, 1, 4), "full": (2, 2, 3, 5, 4),
}


def check_forward(backend, arguments, eps=1e-6):
    if not can_run("qk_norm_rope", backend, *arguments, eps=eps):
        return
    q, k, q_weight, k_weight, cos, sin = arguments
    results = qk_norm_rope(*arguments, eps=eps, backend=backend)
    assert isinstance(results, tuple) and len(results) == 2
    for actual, x, weight in zip(results, (q, k), (q_weight, k_weight), strict=True):
        assert_close_as_pytorch(
            actual, complex_norm_rope(x, weight, cos, sin, eps), eager_norm_rope(x, weight, cos, sin, eps)
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_complex_rotation(backend, parts, dtype, shape):
    norm, rope = PARTS[parts]
    check_forward(backend, norm_rope_arguments(shape, dtype, norm=norm, rope=rope))


@pytest.mark.parametrize("angle_dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("backend", BACKENDS)
def test_angles_of_any_dtype(backend, dtype, angle_dtype):
    check_forward(backend, norm_rope_arguments((2, 2, 3, 5, 2, 16), dtype, angle_dtype=angle_dtype))


@pytest.mark.parametrize("angle_shape", ANGLE_SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_broadcasting_of_angles(backend, angle_shape):
    shape = (2, 2, 3, 5, 2, 8)
    check_forward(backend, norm_rope_arguments(shape, angle_shape=ANGLE_SHAPES[angle_shape]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_angles_with_expanded_transposed_and_gapped_strides(backend):
    q, k, q_weight, k_weight, cos, sin = norm_rope_arguments((2, 2, 3, 5, 2, 8), angle_shape=(3, 1, 4))
    forms = [
        [x.expand(2, 2, 3, 5, 4) for x in (cos, sin)],
        [x.permute(2, 1, 0).contiguous().permute(2, 1, 0) for x in (cos, sin)],
        [torch.stack([x, x], dim=-1)[..., 0] for x in (cos, sin)],
    ]
    for strided in forms:
        check_forward(backend, (q, k, q_weight, k_weight, *strided))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_quarter_turn_maps_the_first_channel_of_a_pair_to_the_second(backend):
    q = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 1, 1, 1, 4)
    cos, sin = torch.zeros(2), torch.ones(2)
    if not can_run("qk_norm_rope", backend, q, q, None, None, cos, sin):
        return
    rotated, _ = qk_norm_rope(q, q, None, None, cos, sin, backend=backend)
    assert rotated.flatten().tolist() == [0.0, 1.0, -1.0, 0.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_neither_norm_nor_rope_copies(backend):
    q, k, *nothing = norm_rope_arguments((2, 2, 3, 5, 2, 7), norm=False, rope=False)
    if not can_run("qk_norm_rope", backend, q, k, *nothing):
        return
    new_q, new_k = qk_norm_rope(q, k, *nothing, backend=backend)
    assert bitwise_equal(new_q, q) and bitwise_equal(new_k, k) and new_q.data_ptr() != q.data_ptr()


@pytest.mark.parametrize("backend", BACKENDS)
def test_odd_head_dim_without_rotation(backend):
    check_forward(backend, norm_rope_arguments((2, 2, 3, 5, 2, 7), rope=False))


@pytest.mark.parametrize("eps", [0.0, 1e-6, 1, 0.5])
@pytest.mark.parametrize("backend", BACKENDS)
def test_eps(backend, eps):
    check_forward(backend, norm_rope_arguments((2, 2, 3, 5, 2, 16)), eps)


@pytest.mark.parametrize("magnitude", [1e-12, 1e15])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tiny_and_huge_rows(backend, magnitude):
    q, k, *rest = norm_rope_arguments((2, 2, 3, 5, 2, 16))
    check_forward(backend, (q * magnitude, k * magnitude, *rest))


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_squares_do_not_overflow(backend):
    """1000 squared is beyond float16; sums are in fp32."""
    q, k, *rest = norm_rope_arguments((1, 2, 2, 3, 2, 16), torch.float16)
    check_forward(backend, (q * 1000, k * 1000, *rest))


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_change_the_result(backend, layout):
    q, k, *rest = norm_rope_arguments((2, 2, 3, 5, 2, 16))
    strided = LAYOUTS[layout](q), LAYOUTS["heads_first"](k)
    check_forward(backend, (*strided, *rest))
    assert bitwise_equal(strided[0], q) and bitwise_equal(strided[1], k)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_token_and_head(backend):
    q, k, *rest = norm_rope_arguments((2, 2, 3, 5, 2, 8))
    if not can_run("qk_norm_rope", backend, q, k, *rest):
        return
    clean = qk_norm_rope(q, k, *rest, backend=backend)
    q[1, 0, 2, 3, 1, 5] = float("nan")
    new_q, new_k = qk_norm_rope(q, k, *rest, backend=backend)
    reached = torch.zeros(q.shape[:-1], dtype=torch.bool)
    reached[1, 0, 2, 3, 1] = True
    assert new_q[reached].isnan().all() and bitwise_equal(new_q[~reached], clean[0][~reached])
    assert bitwise_equal(new_k, clean[1])


@pytest.mark.parametrize("angle_shape", ["full", "per token", "per pair"])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend, parts, angle_shape):
    norm, rope = PARTS[parts]
    shape = {"full": (1, 2, 2, 2, 2), "per token": (2, 2), "per pair": (2,)}[angle_shape]
    q, k, *weights, cos, sin = norm_rope_arguments(
        (1, 2, 2, 2, 1, 4), torch.float64, norm=norm, rope=rope, angle_shape=shape
    )
    tensors = [x.requires_grad_() for x in (q, k, *weights) if x is not None]
    if not can_run("qk_norm_rope", backend, q, k, *weights, cos, sin):
        return

    def call(q, k, q_weight=None, k_weight=None):
        return qk_norm_rope(q, k, q_weight, k_weight, cos, sin, eps=0.1, backend=backend)

    torch.autograd.gradcheck(call, tensors)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_in_low_precision(backend, dtype):
    *values, cos, sin = norm_rope_arguments((2, 3, 2, 7, 2, 16), dtype)
    leaves = [x.requires_grad_() for x in values]
    if not can_run("qk_norm_rope", backend, *leaves, cos, sin):
        return
    grads = [torch.randn(2, 3, 2, 7, 2, 16).to(dtype) for _ in range(2)]
    torch.autograd.backward(qk_norm_rope(*leaves, cos, sin, backend=backend), grads)

    def gradients(function, to_dtype):
        copies = [x.detach().to(to_dtype).requires_grad_() for x in values]
        outs = [function(copies[i], copies[i + 2], cos.to(to_dtype), sin.to(to_dtype)) for i in (0, 1)]
        torch.autograd.backward(outs, [g.to(to_dtype) for g in grads])
        return [x.grad for x in copies]

    exact, plain = gradients(complex_norm_rope, torch.float64), gradients(eager_norm_rope, dtype)
    for leaf, wanted, eager in zip(leaves, exact, plain, strict=True):
        assert_close_as_pytorch(leaf.grad, wanted, eager)


@pytest.mark.parametrize("backend", BACKENDS)
def test_expanded_grad_out_of_one_result(backend):
    *values, cos, sin = norm_rope_arguments((2, 3, 2, 5, 2, 8), torch.float64)
    leaves = [x.requires_grad_() for x in values]
    if not can_run("qk_norm_rope", backend, *leaves, cos, sin):
        return
    qk_norm_rope(*leaves, cos, sin, backend=backend)[1].sum().backward()
    copy_k, copy_weight = (leaves[i].detach().clone().requires_grad_() for i in (1, 3))
    complex_norm_rope(copy_k, copy_weight, cos, sin).sum().backward()
    assert_close_as_pytorch(leaves[1].grad, copy_k.grad, copy_k.grad)
    assert_close_as_pytorch(leaves[3].grad, copy_weight.grad, copy_weight.grad)
    assert not leaves[0].grad.any() and not leaves[2].grad.any()


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_of_inputs_and_grad_out_do_not_change_gradients(backend, layout):
    q, k, *rest = norm_rope_arguments((2, 2, 3, 5, 2, 8), torch.float64)
    grads = [torch.randn_like(q) for _ in range(2)]
    leaves = [x.clone().requires_grad_() for x in (q, k)]
    if not can_run("qk_norm_rope", backend, *leaves, *rest):
        return
    torch.autograd.backward(qk_norm_rope(*leaves, *rest, backend=backend), grads)
    strided = [LAYOUTS[layout](x).requires_grad_() for x in (q, k)]
    torch.autograd.backward(qk_norm_rope(*strided, *rest, backend=backend), [LAYOUTS[layout](g) for g in grads])
    for leaf, copy in zip(leaves, strided, strict=True):
        assert_close_as_pytorch(copy.grad, leaf.grad, leaf.grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_repeats_bitwise(backend):
    *values, cos, sin = norm_rope_arguments((2, 3, 2, 65, 2, 16))
    leaves = [x.requires_grad_() for x in values]
    if not can_run("qk_norm_rope", backend, *leaves, cos, sin):
        return
    outs = qk_norm_rope(*leaves, cos, sin, backend=backend)
    grads = [torch.randn_like(out) for out in outs]
    first = torch.autograd.grad(outs, leaves, grads, retain_graph=True)
    again = torch.autograd.grad(outs, leaves, grads)
    assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rotation_keeps_scores_of_equal_offsets(backend):
    """q . k after rotation depends only on the difference of the angles."""
    q, k = torch.randn(2, 1, 1, 1, 1, 1, 8, dtype=torch.float64).unbind(0)
    turn = torch.randn(4, dtype=torch.float64)
    scores = []
    for shift in (0.0, 1.7):
        one, two = (torch.full((4,), shift, dtype=torch.float64), turn + shift)
        if not can_run("qk_norm_rope", backend, q, q, None, None, one.cos(), one.sin()):
            return
        rotated_q, _ = qk_norm_rope(q, q, None, None, one.cos(), one.sin(), backend=backend)
        rotated_k, _ = qk_norm_rope(k, k, None, None, two.cos(), two.sin(), backend=backend)
        scores.append((rotated_q * rotated_k).sum())
    torch.testing.assert_close(scores[0], scores[1])


@pytest.mark.parametrize("angle_dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("backend", BACKENDS)
def test_expanded_angles_give_the_bits_of_broadcast_ones(backend, angle_dtype):
    *tensors, cos, sin = norm_rope_arguments((2, 2, 3, 5, 2, 8), angle_shape=(3, 1, 4), angle_dtype=angle_dtype)
    if not can_run("qk_norm_rope", backend, *tensors, cos, sin):
        return
    expected = qk_norm_rope(*tensors, cos, sin, backend=backend)
    expanded = [x.expand(2, 2, 3, 5, 4) for x in (cos, sin)]
    for actual, wanted in zip(qk_norm_rope(*tensors, *expanded, backend=backend), expected, strict=True):
        assert bitwise_equal(actual, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_overlapping_windows(backend):
    """Tokens that are windows shifted by one element: a result of the same layout has no contiguous last dim."""
    stream = torch.randn(64, requires_grad=True)
    windows = stream.as_strided((1, 1, 1, 3, 1, 8), (64, 64, 64, 1, 64, 1))
    _, _, *rest = norm_rope_arguments((1, 1, 1, 3, 1, 8))
    if not can_run("qk_norm_rope", backend, windows, windows, *rest):
        return
    grads = torch.randn(2, 1, 1, 1, 3, 1, 8).unbind(0)
    outs = qk_norm_rope(windows, windows, *rest, backend=backend)
    copy = windows.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    wanted = qk_norm_rope(copy, copy, *rest, backend=backend)
    for actual, plain in zip(outs, wanted, strict=True):
        assert bitwise_equal(actual.detach(), plain.detach())
    actual = torch.autograd.grad(outs, windows, grads)[0]
    plain = torch.autograd.grad(wanted, copy, grads)[0]
    assert bitwise_equal(actual, plain)


def test_float64_falls_to_the_reference_and_says_why():
    arguments = norm_rope_arguments((2, 2, 3, 5, 2, 8), torch.float64)
    explanation = explain("qk_norm_rope", *arguments)
    assert explanation.chosen == "reference"
    if "cpu" in BACKENDS:
        assert explanation.reasons["cpu"] == "its arithmetic is in float32, the call is in float64"
        with pytest.raises(NotImplementedError, match="float64"):
            qk_norm_rope(*arguments, backend="cpu")
    assert bitwise_equal(qk_norm_rope(*arguments)[0], qk_norm_rope(*arguments, backend="reference")[0])
