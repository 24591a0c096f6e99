"""``axis_attention`` with ``extra_k, extra_v``: tokens outside the grid that every token attends to."""

from __future__ import annotations

import pytest
import torch

from attention_cases import AXES, dense_attention, random_qkv
from fourreal_kernels import axis_attention, explain
from op_backends import backends, can_run
from op_layouts import LAYOUTS, STRIDED
from op_numerics import LOW_PRECISION, assert_close_as_pytorch, bitwise_equal, dtype_name, poisoned

BACKENDS = backends("axis_attention")
LSE_MAGNITUDE = 8.0
FRAMES = ("vn", "tn", "vn|tn", "n", "vtn")


def random_extra(q, tokens, dtype=None):
    """Extra keys and values for q."""
    shape = (q.shape[0], tokens, *q.shape[4:])
    return [torch.randn(shape, dtype=torch.float64).to(dtype or q.dtype) for _ in range(2)]


def run(qkv, extra, axes, backend, **options):
    return axis_attention(*qkv, axes, extra_k=extra[0], extra_v=extra[1], backend=backend, **options)


def runs(qkv, extra, axes, backend):
    return can_run("axis_attention", backend, *qkv, axes, extra_k=extra[0], extra_v=extra[1])


def lse_magnitude(backend):
    """The sdpa backend weights up to four results by log-sum-exps that were each rounded to fp32."""
    return LSE_MAGNITUDE * (4 if backend == "sdpa" else 1)


def gradients(qkv, extra, axes, grads, backend):
    """Of q, k, v, extra_k, extra_v; ``backend`` None is the dense mask."""
    leaves = [x.detach().clone().requires_grad_() for x in (*qkv, *extra)]
    if backend is None:
        results = dense_attention(*leaves[:3], axes, extra=leaves[3:])
    else:
        results = run(leaves[:3], leaves[3:], axes, backend, return_lse=True)
    sum((result * grad.to(result.dtype)).sum() for result, grad in zip(results, grads, strict=True)).backward()
    return [x.grad for x in leaves]


def random_grads(q):
    return torch.randn(q.shape, dtype=torch.float64), torch.randn(q.shape[:5], dtype=torch.float64)


def check_gradients(qkv, extra, axes, backend):
    grads = [g.to(qkv[0].dtype) for g in random_grads(qkv[0])]
    exact = gradients([x.double() for x in qkv], [x.double() for x in extra], axes, grads, None)
    plain = gradients(qkv, extra, axes, grads, None)
    for actual, wanted, eager in zip(gradients(qkv, extra, axes, grads, backend), exact, plain, strict=True):
        assert_close_as_pytorch(actual, wanted, eager, lse_magnitude=lse_magnitude(backend))


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_axes_against_the_dense_mask(backend, axes):
    qkv = random_qkv(2, 3, 2, 5, 2, 8, dtype=torch.float64)
    extra = random_extra(qkv[0], 4)
    if not runs(qkv, extra, axes, backend):
        return
    for actual, wanted in zip(run(qkv, extra, axes, backend, return_lse=True),
                              dense_attention(*qkv, axes, extra=extra), strict=True):
        assert_close_as_pytorch(actual, wanted, wanted)
    check_gradients(qkv, extra, axes, backend)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("axes", FRAMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_low_precision(backend, axes, dtype):
    qkv = random_qkv(2, 3, 3, 7, 2, 16, dtype=dtype)
    extra = random_extra(qkv[0], 5)
    exact = dense_attention(*(x.double() for x in qkv), axes, extra=[x.double() for x in extra])
    plain = dense_attention(*qkv, axes, extra=extra)
    out, lse = run(qkv, extra, axes, backend, return_lse=True)
    assert_close_as_pytorch(out, exact[0], plain[0], lse_magnitude=lse_magnitude(backend))
    assert_close_as_pytorch(lse, exact[1], plain[1].float())
    check_gradients(qkv, extra, axes, backend)


@pytest.mark.parametrize("extra_tokens", [1, 63, 97, 226])
@pytest.mark.parametrize("tokens", [1, 7, 65])
@pytest.mark.parametrize("axes", ["vn", "tn", "vn|tn"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_counts_of_tokens(backend, axes, tokens, extra_tokens):
    qkv = random_qkv(1, 2, 3, tokens, 2, 40)
    check_gradients(qkv, random_extra(qkv[0], extra_tokens), axes, backend)


@pytest.mark.parametrize("grid", [(3, 1, 2, 3), (3, 2, 1, 3), (3, 2, 3, 1), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("axes", FRAMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_axes_of_size_one(backend, axes, grid):
    qkv = random_qkv(*grid, 2, 8)
    check_gradients(qkv, random_extra(qkv[0], 3), axes, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_of_one_token_per_frame(backend):
    """With one token per frame every group is as good as with the token axis."""
    qkv = random_qkv(2, 3, 4, 1, 2, 16)
    for axes in ("v", "t", "v|t"):
        check_gradients(qkv, random_extra(qkv[0], 9), axes, backend)


@pytest.mark.parametrize("axes", ["vn", "vn|tn"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend, axes):
    qkv = random_qkv(1, 2, 2, 2, 1, 2, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (*qkv, *random_extra(qkv[0], 2))]
    if runs(inputs[:3], inputs[3:], axes, backend):
        torch.autograd.gradcheck(
            lambda *x: run(x[:3], x[3:], axes, backend, scale=0.7, return_lse=True), inputs
        )


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend, layout):
    qkv = random_qkv(2, 2, 3, 5, 2, 16)
    extra, grads = random_extra(qkv[0], 6), random_grads(qkv[0])
    strided = [x.new_full((2, 13, 3, 19), float("nan"))[:, 1:13:2, 1:, 2:18] for x in extra]
    for x, values in zip(strided, extra, strict=True):
        x.copy_(values)
    leaves = [x.requires_grad_() for x in (*(LAYOUTS[layout](x) for x in qkv), *strided)]
    results = run(leaves[:3], leaves[3:], "vn|tn", backend, return_lse=True)
    found = torch.autograd.grad(results, leaves, [g.float() for g in grads])
    contiguous = *run(qkv, extra, "vn|tn", backend, return_lse=True), *gradients(qkv, extra, "vn|tn", grads, backend)
    doubles = [x.double() for x in qkv], [x.double() for x in extra]
    exact = *dense_attention(*doubles[0], "vn|tn", extra=doubles[1]), *gradients(*doubles, "vn|tn", grads, None)
    for actual, wanted, own in zip((*results, *found), exact, contiguous, strict=True):
        assert_close_as_pytorch(actual, wanted, own)


@pytest.mark.parametrize("axes", FRAMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_given_output_is_written_and_nothing_else(backend, axes):
    qkv = random_qkv(2, 3, 2, 5, 2, 16)
    extra = random_extra(qkv[0], 4)
    target = poisoned(tuple(qkv[0].shape), torch.float32, (0, 2, 1, 3, 4, 5))
    result = run(qkv, extra, axes, backend, out=target.destination)
    target.assert_written_exactly()
    assert result is target.destination and bitwise_equal(result, run(qkv, extra, axes, backend))


def test_bits_do_not_depend_on_threads():
    """The gradients of the extra tokens are sums over all lines, made in one order."""
    qkv = random_qkv(2, 4, 3, 40, 3, 16)
    extra, grads = random_extra(qkv[0], 33), random_grads(qkv[0])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(qkv, extra, "vn", grads, "cpu"))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(bitwise_equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_equal_to_one_more_view():
    """Extra tokens are attended to as the tokens of a further frame are."""
    q, k, v = random_qkv(1, 3, 1, 6, 2, 16)
    extra = [x[:, 2, 0] for x in (k, v)]
    part = run([x[:, :2] for x in (q, k, v)], extra, "vn", None)
    whole = axis_attention(q, k, v, "vn")
    assert_close_as_pytorch(part, whole[:, :2].double(), whole[:, :2])


def test_pointwise_axes_go_to_another_backend():
    q, k, v = random_qkv(1, 3, 2, 4, 2, 16)
    extra_k, extra_v = random_extra(q, 5)
    found = explain("axis_attention", q, k, v, "v", extra_k=extra_k, extra_v=extra_v)
    assert found.chosen == "sdpa" and "every group of axes has n" in str(found)


def test_refused_arguments():
    q, k, v = random_qkv(2, 3, 2, 4, 2, 16)
    extra_k, extra_v = random_extra(q, 5)
    for keywords, error, words in (
        ({"extra_k": extra_k}, ValueError, "extra_v: got None"),
        ({"extra_v": extra_v}, ValueError, "extra_k: got None"),
        ({"extra_k": extra_k, "extra_v": extra_v[:, :4]}, ValueError, "extra_v: got shape"),
        ({"extra_k": extra_k[:1], "extra_v": extra_v[:1]}, ValueError, r"extra_k: got .* expected \(2, L, 2, 16\)"),
        ({"extra_k": extra_k[:, :0], "extra_v": extra_v[:, :0]}, ValueError, "at least one token"),
        ({"extra_k": extra_k[:, :, 0], "extra_v": extra_v[:, :, 0]}, ValueError, "extra_k: got shape"),
        ({"extra_k": extra_k.half(), "extra_v": extra_v.half()}, TypeError, "extra_k: got dtype"),
        ({"extra_k": extra_k.repeat(1, 1, 1, 2)[..., ::2], "extra_v": extra_v}, ValueError, "extra_k: the last dim"),
        ({"extra_k": [1], "extra_v": extra_v}, TypeError, "extra_k: expected a torch.Tensor"),
    ):
        out = torch.full_like(q, 7.0)
        with pytest.raises(error, match=words):
            axis_attention(q, k, v, "vn", out=out, **keywords)
        assert (out == 7).all()
    with pytest.raises(ValueError, match="out: shares memory with extra_k"):
        buffer = torch.zeros(q.numel())
        axis_attention(q, k, v, "vn", out=buffer.view(q.shape), extra_k=buffer[: extra_k.numel()].view(extra_k.shape),
                       extra_v=extra_v)
    with pytest.raises(ValueError, match="extra_v: requires grad"):
        axis_attention(q, k, v, "vn", out=torch.empty_like(q), extra_k=extra_k, extra_v=extra_v.requires_grad_())
