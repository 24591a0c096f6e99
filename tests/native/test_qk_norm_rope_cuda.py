"""``qk_norm_rope`` by CUDA kernels, run on the host and on a GPU: against complex multiplication in fp64."""

from __future__ import annotations

import pytest
import torch

from cuda_on_host import TARGETS, backend_target
from fourreal_kernels import explain, qk_norm_rope, qk_norm_rope_
from one_thread import single_threaded  # noqa: F401
from op_layouts import LAYOUTS, STRIDED
from op_numerics import DTYPES, LOW_PRECISION, assert_close_as_pytorch, bitwise_equal, dtype_name, poisoned
from rope_formula import complex_norm_rope, eager_norm_rope, norm_rope_arguments

SOURCES = ("qk_norm_rope_forward", "qk_norm_rope_backward")
PARTS = {"norm and rope": (True, True), "norm": (True, False), "rope": (False, True), "neither": (False, False)}
# Of lanes per row: one, some idle, all; head dims that 16-byte accesses divide and that they do not.
SHAPES = [(2, 1, 3, 7, 2, 64), (1, 3, 2, 65, 3, 40), (1, 2, 1, 100, 1, 128), (2, 1, 1, 1, 1, 6), (1, 1, 1, 7, 2, 256),
          (1, 2, 2, 5, 5, 16), (2, 1, 2, 3, 1, 20), (1, 1, 2, 3, 2, 254)]
ANGLE_SHAPES = {
    "per pair": (20,), "per token": (5, 20), "per time and token": (3, 5, 20), "per view": (2, 1, 1, 20),
    "one for all": (1, 1, 1, 1, 20), "full": (2, 2, 3, 5, 20),
}


@pytest.fixture(params=TARGETS, autouse=True)
def target(request, monkeypatch):
    yield from backend_target(request.param, monkeypatch, SOURCES)


def check_forward(arguments, eps=1e-6):
    q, k, q_weight, k_weight, cos, sin = arguments
    results = qk_norm_rope(*arguments, eps=eps, backend="cuda")
    for actual, x, weight in zip(results, (q, k), (q_weight, k_weight), strict=True):
        assert_close_as_pytorch(
            actual, complex_norm_rope(x, weight, cos, sin, eps), eager_norm_rope(x, weight, cos, sin, eps)
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
def test_complex_rotation(dtype, shape):
    check_forward(norm_rope_arguments(shape, dtype))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("head_dim", [40, 18])
def test_parts(parts, head_dim):
    norm, rope = PARTS[parts]
    check_forward(norm_rope_arguments((2, 2, 1, 7, 2, head_dim), torch.bfloat16, norm=norm, rope=rope))


@pytest.mark.parametrize("head_dim", [1, 3, 7, 33])
def test_odd_head_dim_without_rotation(head_dim):
    check_forward(norm_rope_arguments((2, 2, 1, 7, 2, head_dim), rope=False))


@pytest.mark.parametrize("heads", [1, 2, 3, 16, 17])
def test_any_number_of_heads(heads):
    check_forward(norm_rope_arguments((1, 2, 1, 5, heads, 24)))


def test_more_rows_than_a_wave_of_blocks():
    check_forward(norm_rope_arguments((1, 1, 1, 33_000, 1, 136), torch.bfloat16, norm=False, angle_shape=(68,)))


@pytest.mark.parametrize("angle_dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("angle_shape", ANGLE_SHAPES)
def test_angles_of_any_shape_and_dtype(angle_shape, angle_dtype):
    check_forward(
        norm_rope_arguments((2, 2, 3, 5, 2, 40), angle_shape=ANGLE_SHAPES[angle_shape], angle_dtype=angle_dtype)
    )


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("form", ["expanded", "transposed", "gaps", "inside NaN"])
def test_strides_of_angles(form, dtype):
    q, k, q_weight, k_weight, cos, sin = norm_rope_arguments((2, 2, 3, 5, 2, 8), dtype, angle_shape=(3, 1, 4))
    strided = {
        "expanded": lambda x: x.expand(2, 2, 3, 5, 4),
        "transposed": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "gaps": lambda x: torch.stack([x, torch.full_like(x, float("nan"))], dim=-1)[..., 0],
        "inside NaN": lambda x: x.new_full((5, 3, 7), float("nan"))[1:4, 1:2, 2:6].copy_(x),
    }[form]
    expected = qk_norm_rope(q, k, q_weight, k_weight, cos, sin, backend="cuda")
    results = qk_norm_rope(q, k, q_weight, k_weight, strided(cos), strided(sin), backend="cuda")
    assert all(bitwise_equal(actual, wanted) for actual, wanted in zip(results, expected, strict=True))


@pytest.mark.parametrize("magnitude", [1e-12, 1e15])
def test_tiny_and_huge_rows(magnitude):
    q, k, *rest = norm_rope_arguments((1, 2, 1, 5, 2, 16))
    check_forward((q * magnitude, k * magnitude, *rest))


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("layout", STRIDED)
def test_strides_do_not_change_the_bits(layout, dtype):
    q, k, *rest = norm_rope_arguments((2, 2, 3, 5, 3, 16), dtype)
    expected = qk_norm_rope(q, k, *rest, backend="cuda")
    strided = LAYOUTS[layout](q), LAYOUTS["heads_first"](k)
    for actual, wanted in zip(qk_norm_rope(*strided, *rest, backend="cuda"), expected, strict=True):
        assert bitwise_equal(actual, wanted)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("head_dim", [40, 42])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (3, 1, 0, 2, 4, 5)], ids=["contiguous", "permuted"])
def test_in_place_has_the_bits_of_the_functional_form_and_stays_inside(order, head_dim, dtype):
    shape = (2, 2, 3, 7, 3, head_dim)
    q, k, *rest = norm_rope_arguments(shape, dtype)
    expected = qk_norm_rope(q, k, *rest, backend="cuda")
    regions = [poisoned(shape, dtype, order) for _ in range(2)]
    for region, x in zip(regions, (q, k), strict=True):
        region.destination.copy_(x)
    qk_norm_rope_(*(region.destination for region in regions), *rest, backend="cuda")
    for region, wanted in zip(regions, expected, strict=True):
        region.assert_written_exactly()
        assert bitwise_equal(region.destination, wanted)


def test_nan_stays_in_its_token_and_head():
    q, k, *rest = norm_rope_arguments((2, 2, 3, 5, 2, 8))
    clean = qk_norm_rope(q, k, *rest, backend="cuda")
    q[1, 0, 2, 3, 1, 5] = float("nan")
    new_q, new_k = qk_norm_rope(q, k, *rest, backend="cuda")
    reached = torch.zeros(q.shape[:-1], dtype=torch.bool)
    reached[1, 0, 2, 3, 1] = True
    assert new_q[reached].isnan().all() and bitwise_equal(new_q[~reached], clean[0][~reached])
    assert bitwise_equal(new_k, clean[1])


def formula_gradients(values, cos, sin, grads, function, dtype):
    copies = [None if x is None else x.detach().to(dtype).requires_grad_() for x in values]
    angles = [None if x is None else x.to(dtype) for x in (cos, sin)]
    outs = [function(copies[i], copies[i + 2], *angles) for i in (0, 1)]
    torch.autograd.backward(outs, [g.to(dtype) for g in grads])
    return [None if x is None else x.grad for x in copies]


def kernel_gradients(values, cos, sin, grads, layout="contiguous"):
    leaves = [LAYOUTS[layout](x) if x is not None and x.ndim == 6 else x for x in values]
    leaves = [None if x is None else x.detach().requires_grad_() for x in leaves]
    outs = qk_norm_rope(*leaves, cos, sin, backend="cuda")
    torch.autograd.backward(outs, [LAYOUTS[layout](g) for g in grads])
    return [None if x is None else x.grad for x in leaves]


def check_gradients(shape, dtype, norm=True, rope=True, **options):
    *values, cos, sin = norm_rope_arguments(shape, dtype, norm=norm, rope=rope, **options)
    grads = [torch.randn(shape).to(dtype) for _ in range(2)]
    exact = formula_gradients(values, cos, sin, grads, complex_norm_rope, torch.float64)
    plain = formula_gradients(values, cos, sin, grads, eager_norm_rope, dtype)
    for actual, wanted, eager in zip(kernel_gradients(values, cos, sin, grads), exact, plain, strict=True):
        if wanted is None:
            assert actual is None
        else:
            assert_close_as_pytorch(actual, wanted, eager)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
def test_gradients(dtype, shape):
    check_gradients(shape, dtype)


@pytest.mark.parametrize("parts", ["norm", "rope", "neither"])
@pytest.mark.parametrize("head_dim", [40, 18])
def test_gradients_of_parts(parts, head_dim):
    check_gradients((1, 2, 2, 7, 2, head_dim), torch.float32, *PARTS[parts])


def test_gradients_over_several_partial_sums():
    check_gradients((1, 2, 1, 1500, 1, 64), torch.float32, angle_shape=(32,))


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("layout", STRIDED)
def test_strides_do_not_change_the_bits_of_gradients(layout, dtype):
    *values, cos, sin = norm_rope_arguments((1, 2, 2, 5, 2, 16), dtype)
    grads = [torch.randn_like(values[0]) for _ in range(2)]
    results = [kernel_gradients(values, cos, sin, grads, name) for name in ("contiguous", layout)]
    assert all(bitwise_equal(a, b) for a, b in zip(*results, strict=True))


def test_expanded_grad_out_of_one_result():
    *values, cos, sin = norm_rope_arguments((2, 1, 2, 5, 2, 8))
    leaves = [x.requires_grad_() for x in values]
    qk_norm_rope(*leaves, cos, sin, backend="cuda")[1].sum().backward()
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
    outs, wanted = (qk_norm_rope(x, x, *rest, backend="cuda") for x in (windows, copy))
    assert all(bitwise_equal(actual.detach(), plain.detach()) for actual, plain in zip(outs, wanted, strict=True))
    assert bitwise_equal(torch.autograd.grad(outs, windows, grads)[0], torch.autograd.grad(wanted, copy, grads)[0])


def test_backward_repeats_bitwise():
    *values, cos, sin = norm_rope_arguments((2, 1, 2, 65, 2, 16))
    grads = [torch.randn_like(values[0]) for _ in range(2)]
    first, again = (kernel_gradients(values, cos, sin, grads) for _ in range(2))
    assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


def test_opcheck():
    arguments = [None if x is None else x.requires_grad_(x.dtype == torch.float32 and i < 4)
                 for i, x in enumerate(norm_rope_arguments((1, 2, 2, 3, 2, 8)))]
    torch.library.opcheck(torch.ops.fourreal_kernels.qk_norm_rope, (*arguments, 1e-6, "cuda"))


def test_never_chosen_unless_named():
    explanation = explain("qk_norm_rope", *norm_rope_arguments((1, 2, 2, 3, 2, 8)))
    assert explanation.chosen != "cuda" and explanation.reasons["cuda"] == "can run; only when named"


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [((1, 2, 2, 3, 2, 8), torch.float64, "arithmetic is in float32, the call is in float64"),
     ((1, 1, 1, 2, 1, 258), torch.float32, "head dims up to 256, got 258")],
    ids=["float64", "head dim"],
)
def test_refusals(shape, dtype, message):
    with pytest.raises(NotImplementedError, match=message):
        qk_norm_rope(*norm_rope_arguments(shape, dtype), backend="cuda")


def test_more_rows_than_31_bits_are_refused():
    q, k = (torch.zeros(1, 1, 1, 1, 1, 2).expand(1, 1, 1, 2**16, 2**15, 2) for _ in range(2))
    explanation = explain("qk_norm_rope", q, k, None, None, None, None)
    assert "in 31 bits, got 2147483648" in explanation.reasons["cuda"]
