"""Attention over ``"v"``, ``"t"``, ``"vt"`` and ``"v|t"`` by CUDA kernels, run on the host and on a GPU."""

from __future__ import annotations

import pytest
import torch

from attention_cases import allowed_pairs, dense_attention, random_qkv
from cuda_on_host import TARGETS, backend_target
from fourreal_kernels import axis_attention, explain, native
from fourreal_kernels.ops.axis_attention import cuda_pointwise
from one_thread import single_threaded  # noqa: F401
from op_layouts import LAYOUTS, STRIDED
from op_numerics import LOW_PRECISION, assert_close_as_pytorch, bitwise_equal, dtype_name, poisoned

SOURCES = ("pointwise_attention_forward", "pointwise_attention_backward", "pointwise_attention_long")
AXES = ("v", "t", "vt", "v|t")
# Tiles with positions, lines, cross lines, groups of lanes and channels to spare; B = 2, V = 1, T = 1, odd N.
SHAPES = [(2, 3, 2, 7, 2, 64), (1, 1, 3, 65, 1, 40), (1, 2, 1, 100, 1, 128), (1, 1, 1, 1, 1, 16), (1, 3, 13, 2, 1, 24),
          (1, 9, 4, 1, 1, 256), (1, 8, 8, 1, 3, 64), (2, 2, 17, 1, 2, 80)]


@pytest.fixture(params=TARGETS, autouse=True)
def target(request, monkeypatch):
    yield from backend_target(request.param, monkeypatch, SOURCES)


@pytest.fixture
def nothing_fits(monkeypatch):
    """All calls go to the kernels for sequences that do not fit the shared memory."""
    monkeypatch.setattr(cuda_pointwise, "shared_bytes", lambda device: 0)


def attention(*qkv, axes, **options):
    return axis_attention(*qkv, axes, return_lse=True, backend="cuda", **options)


def check_forward(qkv, axes, scale=None):
    out, lse = attention(*qkv, axes=axes, scale=scale)
    exact, exact_lse = dense_attention(*(x.double() for x in qkv), axes, scale)
    plain, plain_lse = dense_attention(*qkv, axes, scale)
    assert_close_as_pytorch(out, exact, plain)
    assert_close_as_pytorch(lse, exact_lse, plain_lse.float())


def check_gradients(qkv, axes, with_lse=True, lse_magnitude=0.0):
    """`lse_magnitude`: of kernels that take their weights from an lse rounded to fp32."""
    grad, grad_lse = torch.randn(qkv[0].shape).to(qkv[0].dtype), torch.randn(qkv[0].shape[:5])

    def gradients(function, dtype):
        leaves = [x.detach().to(dtype).requires_grad_() for x in qkv]
        out, lse = function(*leaves)
        outs = (out, lse) if with_lse else (out,)
        grads = [x.to(y.dtype) for x, y in zip((grad, grad_lse), outs, strict=False)]
        return torch.autograd.grad(outs, leaves, grads)

    ours = gradients(lambda *x: attention(*x, axes=axes), qkv[0].dtype)
    exact = gradients(lambda *x: dense_attention(*x, axes), torch.float64)
    plain = gradients(lambda *x: dense_attention(*x, axes), qkv[0].dtype)
    for actual, wanted, eager in zip(ours, exact, plain, strict=True):
        assert_close_as_pytorch(actual, wanted, eager, lse_magnitude=lse_magnitude)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axes", AXES)
def test_every_dtype(axes, shape):
    for dtype in LOW_PRECISION:
        check_forward(random_qkv(*shape, dtype=dtype), axes)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axes", AXES)
def test_gradients(axes, shape):
    for dtype in LOW_PRECISION:
        check_gradients(random_qkv(*shape, dtype=dtype), axes)


@pytest.mark.parametrize("head_dim", [1, 3, 18, 33, 100, 200])
def test_any_head_dim(head_dim):
    """Also those whose rows do not start at multiples of 16 bytes."""
    for axes in ("t", "v|t"):
        qkv = random_qkv(1, 2, 5, 3, 2, head_dim, dtype=torch.bfloat16)
        check_forward(qkv, axes)
        check_gradients(qkv, axes, with_lse=False)


@pytest.mark.parametrize("sizes", [(128, 1), (1, 100), (33, 2), (16, 16), (8, 21)], ids=str)
def test_many_entries(sizes):
    axes = "v" if sizes[1] == 1 else "t" if sizes[0] == 1 else "v|t"
    qkv = random_qkv(1, *sizes, 1, 1, 16, dtype=torch.bfloat16)
    check_forward(qkv, axes)
    check_gradients(qkv, axes)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("axes", AXES)
def test_sequences_that_do_not_fit(nothing_fits, axes, dtype):
    qkv = random_qkv(2, 3, 2, 5, 2, 40, dtype=dtype)
    check_forward(qkv, axes)
    check_gradients(qkv, axes, lse_magnitude=8.0)


def test_what_fits_depends_on_the_shared_memory(monkeypatch):
    """Both kernels give the same up to rounding."""
    qkv = random_qkv(1, 20, 1, 1, 1, 256, dtype=torch.float32)
    staged, staged_lse = attention(*qkv, axes="v")
    monkeypatch.setattr(cuda_pointwise, "shared_bytes", lambda device: 48 << 10)
    read_again, lse = attention(*qkv, axes="v")
    assert not bitwise_equal(staged, read_again)
    torch.testing.assert_close(read_again, staged, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse, staged_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("axes", AXES)
def test_strides_do_not_change_the_bits(axes, layout):
    other = "heads_first" if layout == "time_first" else "time_first"

    def everything(qkv, grad):
        leaves = [x.detach().requires_grad_() for x in qkv]
        out, lse = attention(*leaves, axes=axes)
        return out, lse, *torch.autograd.grad(out, leaves, grad)

    for shape in ((2, 3, 2, 3, 2, 16), (1, 2, 9, 2, 2, 64)):
        *qkv, grad = (*random_qkv(*shape, dtype=torch.bfloat16), torch.randn(shape).bfloat16())
        strided = [LAYOUTS[name](x) for name, x in zip((layout, other, layout), qkv, strict=True)]
        for actual, wanted in zip(everything(strided, LAYOUTS[layout](grad)), everything(qkv, grad), strict=True):
            assert bitwise_equal(actual, wanted)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (3, 1, 0, 2, 4, 5), (0, 4, 1, 2, 3, 5)], ids=str)
@pytest.mark.parametrize("axes", AXES)
def test_writes_into_out_and_nothing_else(axes, order):
    for head_dim in (40, 64):
        shape = (1, 3, 2, 5, 2, head_dim)
        qkv = random_qkv(*shape, dtype=torch.bfloat16)
        region = poisoned(shape, torch.bfloat16, order)
        axis_attention(*qkv, axes, out=region.destination, backend="cuda")
        region.assert_written_exactly()
        assert bitwise_equal(region.destination, attention(*qkv, axes=axes)[0])


def test_gradients_are_written_exactly(target):
    """Into destinations of any strides, aligned or not, and nothing beside them."""
    for pad, shape in ((0, (1, 3, 2, 5, 2, 64)), (3, (1, 3, 2, 5, 2, 40))):
        q, k, v, grad = (*random_qkv(*shape, dtype=torch.bfloat16), torch.randn(shape).bfloat16())
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out, lse = attention(*leaves, axes="v|t")
        expected = torch.autograd.grad(out, leaves, grad)
        buffers = [torch.full([size + pad for size in shape], float("nan"), dtype=torch.bfloat16) for _ in range(3)]
        regions = [buffer[tuple(slice(pad, None) for _ in shape)] for buffer in buffers]
        arguments = [(x.data_ptr(), x.stride()) for x in (q, k, v, out.detach(), lse.detach(), *regions)]
        tensors = [(grad.data_ptr(), grad.stride()), (0, ()), *arguments]
        native.cuda_library().pointwise_attention_backward(
            "bfloat16", shape, "v|t", shape[-1] ** -0.5, tensors, cuda_pointwise.shared_bytes(torch.device(target)))
        for region, buffer, wanted in zip(regions, buffers, expected, strict=True):
            assert bitwise_equal(region, wanted)
            region.fill_(float("nan"))
            assert buffer.isnan().all(), "memory outside the gradients was written"


def test_lse_may_be_left_out(target):
    q, k, v = random_qkv(1, 3, 2, 5, 2, 16)
    for shared_bytes in (0, cuda_pointwise.shared_bytes(torch.device(target))):
        out = torch.full_like(q, float("nan"))
        tensors = [(x.data_ptr(), x.stride()) for x in (q, k, v, out)]
        native.cuda_library().pointwise_attention_forward(
            "float32", q.shape, "v|t", 0.25, [*tensors, (0, ())], shared_bytes)
        torch.testing.assert_close(out, dense_attention(q, k, v, "v|t")[0])


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
    seen = allowed_pairs(axes, *shape[1:4]).to(grad.device)
    victim = 1 * 10 + 1 * 5 + 3
    near = seen[victim]
    # a token that shares a key or query with a neighbour of the victim is reached by the gradients
    reached = [near, near, *[seen[near].any(0)] * 3]
    for before, after, mask in zip(clean, everything(), reached, strict=True):
        mask = mask.view(3, 2, 5)
        assert bitwise_equal(before[0, ~mask], after[0, ~mask])
    if poisoned_input == 2:
        assert not everything()[0][0, near.view(3, 2, 5), 0, 7].isfinite().any()


@pytest.mark.parametrize("axes", ["t", "v|t"])
def test_one_infinite_score_of_minus_hides_its_key(axes, nothing_fits, monkeypatch):
    """A key of weight 0 counts for nothing, in both kernels, wherever it stands in the sequence."""
    q, k, v = random_qkv(1, 1, 9, 2, 1, 16)
    q[..., 0] = 1.0
    k[:, :, 0, :, :, 0] = -float("inf")
    exact, _ = dense_attention(q.double(), k.double(), v.double(), axes)
    torch.testing.assert_close(attention(q, k, v, axes=axes)[0], exact.float())
    monkeypatch.setattr(cuda_pointwise, "shared_bytes", lambda device: 48 << 10)
    torch.testing.assert_close(attention(q, k, v, axes=axes)[0], exact.float())


@pytest.mark.parametrize("score", [0.0, 80.0, -80.0, 1e4])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
def test_constant_rows(dtype, score):
    """Equal scores: every weight is 1 / keys, however large the log-sum-exp."""
    q, k, v = random_qkv(1, 3, 4, 5, 2, 16, dtype=dtype)
    k = torch.zeros_like(k)
    q[..., 0], k[..., 0] = 1, 1
    for axes in AXES:
        check_forward((q, k, v), axes, scale=score)


def test_large_scores():
    q, k, v = random_qkv(1, 4, 4, 3, 1, 16, dtype=torch.bfloat16)
    check_forward((q * 80, k.sign() * 5, v), "v|t")


def test_shared_keys_through_expanded_inputs():
    q, k, v = random_qkv(2, 2, 3, 4, 3, 16, dtype=torch.float16)
    k, v = (x[:, :, :, :, :1].expand_as(q) for x in (k, v))
    copies = q, k.contiguous(), v.contiguous()
    for axes in AXES:
        for actual, wanted in zip(attention(q, k, v, axes=axes), attention(*copies, axes=axes), strict=True):
            assert bitwise_equal(actual, wanted)


def test_expanded_grad_out():
    leaves = [x.requires_grad_() for x in random_qkv(1, 2, 3, 5, 2, 16)]
    attention(*leaves, axes="v|t")[0].sum().backward()
    exact = [x.detach().double().requires_grad_() for x in leaves]
    dense_attention(*exact, "v|t")[0].sum().backward()
    for x, wanted in zip(leaves, exact, strict=True):
        torch.testing.assert_close(x.grad, wanted.grad.float(), rtol=1e-4, atol=1e-5)


def test_repeats_bitwise():
    leaves = [x.requires_grad_() for x in random_qkv(1, 3, 2, 9, 2, 32, dtype=torch.bfloat16)]
    grad = torch.randn(leaves[0].shape).bfloat16()

    def everything():
        out, lse = attention(*leaves, axes="v|t", deterministic=True)
        return out, lse, *torch.autograd.grad(out, leaves, grad)

    assert all(bitwise_equal(a, b) for a, b in zip(everything(), everything(), strict=True))


def test_elements_far_apart():
    """Views whose elements are more than 2^31 elements apart; memory is reserved, hardly any of it touched."""
    far = 2**31 + 4096
    shape, strides = (1, 2, 2, 3, 1, 16), (0, far, 48, 16, 16, 1)
    try:
        buffer = torch.empty(far + 8 * 96, dtype=torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"no room for 4 GiB: {error}")
    qkv = random_qkv(*shape, dtype=torch.bfloat16)
    inputs = [buffer.as_strided(shape, strides, 96 * i).copy_(x) for i, x in enumerate(qkv)]
    out = buffer.as_strided(shape, strides, 3 * 96)
    for axes in ("v", "v|t"):
        axis_attention(*inputs, axes, out=out, backend="cuda")
        assert bitwise_equal(out, attention(*qkv, axes=axes)[0])


def test_opcheck():
    qkv = [x.requires_grad_() for x in random_qkv(1, 2, 2, 3, 1, 8)]
    torch.library.opcheck(torch.ops.fourreal_kernels.axis_attention, (*qkv, "v|t", 0.3, False, "cuda"),
                          test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


def test_never_chosen_unless_named():
    explanation = explain("axis_attention", *random_qkv(1, 2, 2, 3, 2, 8), "v")
    assert explanation.chosen != "cuda" and explanation.reasons["cuda"] == "can run; only when named"


@pytest.mark.parametrize(
    ("axes", "head_dim", "dtype", "message"),
    [("v|n", 16, torch.float32, "axes 'v', 't', 'vt' and 'v|t', the call is 'v|n'"),
     ("v", 264, torch.float32, "head dims up to 256, got 264"),
     ("t", 16, torch.float64, "compute in float32, the call is float64")], ids=["axes", "head dim", "float64"])
def test_refusals(axes, head_dim, dtype, message):
    with pytest.raises(NotImplementedError, match=message.replace("|", r"\|")):
        attention(*random_qkv(1, 2, 2, 3, 1, head_dim, dtype=dtype), axes=axes)


def test_the_library_refuses_what_it_cannot_run():
    q = torch.zeros(1, 2, 2, 3, 1, 16)
    tensors = [(q.data_ptr(), q.stride())] * 5
    forward = native.cuda_library().pointwise_attention_forward
    for change, message in (({"dtype": "float64"}, "dtype: .*float64"), ({"axes": "vn"}, "axes: .*'v', 't', 'vt'"),
                            ({"sizes": [1, 2, 2, 3, 1, 257]}, "sizes: .*up to 256"), ({"sizes": [1, 2]}, "6 integers"),
                            ({"tensors": [(0, q.stride()), *tensors[1:]]}, "q: expected the address")):
        arguments = {"dtype": "float32", "sizes": q.shape, "axes": "v", "scale": 1.0, "tensors": tensors,
                     "shared_bytes": 1 << 16} | change
        with pytest.raises(ValueError, match=message):
            forward(**arguments)
