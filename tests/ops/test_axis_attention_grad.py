"""Gradients of ``axis_attention``: numerical, against autograd of the dense mask, and against the reference."""

from __future__ import annotations

import pytest
import torch

from attention_cases import AXES, dense_attention, random_qkv
from fourreal_kernels import axis_attention
from op_backends import backends, can_run
from op_layouts import LAYOUTS, STRIDED
from op_numerics import LOW_PRECISION, assert_close_as_pytorch, bitwise_equal, dtype_name

BACKENDS = backends("axis_attention")
LSE_MAGNITUDE = 8.0


def lse_magnitude(backend: str, axes: str) -> float:
    """The sdpa backend makes the log-sum-exp of a union of three that PyTorch's kernel has each rounded to fp32."""
    return LSE_MAGNITUDE * (3 if backend == "sdpa" and "|" in axes else 1)
"""A backward takes its weights as exp(score - lse) from an lse rounded to its dtype; here lse stays below 8."""
USES = {"out": (True, False), "lse": (False, True), "out and lse": (True, True)}


def loss(results, grads, use):
    """Sum of the used results times fixed gradients; an unused result gets no gradient at all."""
    used = [(r, g) for r, g, wanted in zip(results, grads, USES[use], strict=True) if wanted]
    return sum((result * grad.to(result.dtype)).sum() for result, grad in used)


def dense_gradients(qkv, axes, grads, use, dtype, scale=None):
    leaves = [x.detach().to(dtype).requires_grad_() for x in qkv]
    loss(dense_attention(*leaves, axes, scale), grads, use).backward()
    return [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]


def gradients(qkv, axes, grads, use, backend, scale=None):
    leaves = [x.detach().clone().requires_grad_() for x in qkv]
    results = axis_attention(*leaves, axes, scale=scale, return_lse=True, backend=backend)
    loss(results, grads, use).backward()
    return [x.grad for x in leaves]


def random_grads(q):
    return torch.randn(q.shape, dtype=torch.float64), torch.randn(q.shape[:5], dtype=torch.float64)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend, axes):
    qkv = [x.requires_grad_() for x in random_qkv(1, 2, 2, 2, 1, 2, dtype=torch.float64)]
    if can_run("axis_attention", backend, *qkv, axes):
        torch.autograd.gradcheck(
            lambda q, k, v: axis_attention(q, k, v, axes, scale=0.7, return_lse=True, backend=backend), qkv
        )


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_fp64_gradients_of_the_dense_mask(backend, axes, use):
    qkv = random_qkv(2, 3, 2, 5, 2, 8, dtype=torch.float64)
    if not can_run("axis_attention", backend, *qkv, axes):
        return
    grads = random_grads(qkv[0])
    expected = dense_gradients(qkv, axes, grads, use, torch.float64)
    for actual, wanted in zip(gradients(qkv, axes, grads, use, backend), expected, strict=True):
        assert_close_as_pytorch(actual, wanted, wanted)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_in_low_precision(backend, axes, dtype):
    qkv = random_qkv(2, 3, 3, 7, 2, 16, dtype=dtype)
    if not can_run("axis_attention", backend, *qkv, axes):
        return
    grads = [g.to(dtype) for g in random_grads(qkv[0])]
    exact = gradients([x.double() for x in qkv], axes, grads, "out and lse", "reference")
    plain = dense_gradients(qkv, axes, grads, "out and lse", dtype)
    for actual, wanted, eager in zip(gradients(qkv, axes, grads, "out and lse", backend), exact, plain, strict=True):
        assert_close_as_pytorch(actual, wanted, eager, lse_magnitude=lse_magnitude(backend, axes))


@pytest.mark.parametrize("tokens", [1, 63, 65, 130])
@pytest.mark.parametrize("axes", ["vn", "tn", "vn|tn", "v|t", "n"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_token_counts(backend, axes, tokens):
    qkv = random_qkv(1, 2, 3, tokens, 1, 40)
    if not can_run("axis_attention", backend, *qkv, axes):
        return
    grads = random_grads(qkv[0])
    exact = dense_gradients(qkv, axes, grads, "out and lse", torch.float64)
    plain = dense_gradients(qkv, axes, grads, "out and lse", torch.float32)
    for actual, wanted, eager in zip(gradients(qkv, axes, grads, "out and lse", backend), exact, plain, strict=True):
        assert_close_as_pytorch(actual, wanted, eager, lse_magnitude=lse_magnitude(backend, axes))


@pytest.mark.parametrize("grid", [(3, 1, 2, 3), (3, 2, 1, 3), (3, 2, 3, 1), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_axes_of_size_one(backend, axes, grid):
    qkv = random_qkv(*grid, 2, 8, dtype=torch.float64)
    if not can_run("axis_attention", backend, *qkv, axes):
        return
    grads = random_grads(qkv[0])
    expected = dense_gradients(qkv, axes, grads, "out and lse", torch.float64)
    for actual, wanted in zip(gradients(qkv, axes, grads, "out and lse", backend), expected, strict=True):
        assert_close_as_pytorch(actual, wanted, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axes", ["vn", "tn", "vn|tn", "v|t"])
def test_expanded_grad_out(axes, backend):
    """``out.sum()`` sends one number expanded to the shape of out."""
    qkv = random_qkv(2, 2, 3, 5, 2, 16, dtype=torch.float64)
    if not can_run("axis_attention", backend, *qkv, axes):
        return
    leaves = [x.clone().requires_grad_() for x in qkv]
    axis_attention(*leaves, axes, backend=backend).sum().backward()
    ones = torch.ones(qkv[0].shape), torch.ones(qkv[0].shape[:5])
    expected = dense_gradients(qkv, axes, ones, "out", torch.float64)
    for leaf, wanted in zip(leaves, expected, strict=True):
        assert_close_as_pytorch(leaf.grad, wanted, wanted)


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("axes", ["vn", "vn|tn", "v|t"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_of_inputs_and_grad_out_do_not_change_gradients(backend, axes, layout):
    qkv = random_qkv(2, 2, 3, 5, 2, 16)
    if not can_run("axis_attention", backend, *qkv, axes):
        return
    grad = torch.randn_like(qkv[0])
    grads = grad, torch.zeros(())
    exact = dense_gradients(qkv, axes, grads, "out", torch.float64)
    contiguous = gradients(qkv, axes, grads, "out", backend)
    leaves = [LAYOUTS[layout](x).requires_grad_() for x in qkv]
    axis_attention(*leaves, axes, backend=backend).backward(LAYOUTS[layout](grad))
    for leaf, wanted, own in zip(leaves, exact, contiguous, strict=True):
        assert_close_as_pytorch(leaf.grad, wanted, own)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_expanded_keys_are_summed(backend):
    """Keys and values of one head used by three: their gradient is the sum over the heads."""
    q, k, v = random_qkv(2, 2, 3, 4, 3, 8, dtype=torch.float64)
    if not can_run("axis_attention", backend, q, k, v, "vn|tn"):
        return
    shared = [x[:, :, :, :, :1].clone().requires_grad_() for x in (k, v)]
    axis_attention(q, *(x.expand_as(q) for x in shared), "vn|tn", backend=backend).square().sum().backward()
    copies = [x.detach().expand_as(q).clone().requires_grad_() for x in shared]
    dense_attention(q, *copies, "vn|tn")[0].square().sum().backward()
    for x, copy in zip(shared, copies, strict=True):
        wanted = copy.grad.sum(4, keepdim=True)
        assert_close_as_pytorch(x.grad, wanted, wanted)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_one_input_only(backend, wanted):
    qkv = random_qkv(1, 2, 3, 4, 2, 8, dtype=torch.float64)
    if not can_run("axis_attention", backend, *qkv, "vn|tn"):
        return
    full = gradients(qkv, "vn|tn", (torch.ones(()), torch.ones(())), "out and lse", backend)
    leaves = [x.clone().requires_grad_(flag) for x, flag in zip(qkv, wanted, strict=True)]
    out, lse = axis_attention(*leaves, "vn|tn", return_lse=True, backend=backend)
    (out.sum() + lse.sum()).backward()
    for leaf, gradient, flag in zip(leaves, full, wanted, strict=True):
        assert (leaf.grad is not None) == flag
        assert not flag or bitwise_equal(leaf.grad, gradient)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_repeats_bitwise(backend, axes, dtype):
    qkv = random_qkv(2, 3, 2, 9, 2, 16, dtype=dtype)
    leaves = [x.requires_grad_() for x in qkv]
    if not can_run("axis_attention", backend, *leaves, axes, deterministic=True):
        return
    out, lse = axis_attention(*leaves, axes, return_lse=True, deterministic=True, backend=backend)
    grads = [torch.randn_like(out), torch.randn_like(lse)]
    first = torch.autograd.grad((out, lse), leaves, grads, retain_graph=True)
    for _ in range(2):
        again = torch.autograd.grad((out, lse), leaves, grads, retain_graph=True)
        assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("axes", ["vn", "vn|tn", "v|t"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_at_scores_of_80(backend, axes):
    qkv = random_qkv(2, 3, 3, 7, 2, 16)
    if not can_run("axis_attention", backend, *qkv, axes):
        return
    q, k = (torch.nn.functional.normalize(x, dim=-1) * length for x, length in zip(qkv[:2], (8.0, 10.0), strict=True))
    k[:, 0, 0, 0], k[:, 1, 1, 1] = 1.25 * q[:, 0, 0, 0], -1.25 * q[:, 0, 1, 0]
    qkv, grads = [q, k, qkv[2]], random_grads(q)
    exact = dense_gradients(qkv, axes, grads, "out and lse", torch.float64, scale=1.0)
    plain = dense_gradients(qkv, axes, grads, "out and lse", torch.float32, scale=1.0)
    actual = gradients(qkv, axes, grads, "out and lse", backend, scale=1.0)
    for gradient, wanted, eager in zip(actual, exact, plain, strict=True):
        assert_close_as_pytorch(gradient, wanted, eager, lse_magnitude=80.0)


@pytest.mark.parametrize("axes", ["n", "vn|tn", "v|t"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_constant_rows(backend, axes):
    """Equal scores of 80: the weights in the backward are known to the spacing of numbers near the log-sum-exp."""
    q, _, v = random_qkv(2, 3, 2, 7, 2, 16)
    k = torch.zeros_like(q)
    q[..., 0], k[..., 0] = 1, 1
    if not can_run("axis_attention", backend, q, k, v, axes):
        return
    grads = random_grads(q)
    exact = dense_gradients([q, k, v], axes, grads, "out and lse", torch.float64, scale=80.0)
    plain = dense_gradients([q, k, v], axes, grads, "out and lse", torch.float32, scale=80.0)
    actual = gradients([q, k, v], axes, grads, "out and lse", backend, scale=80.0)
    for gradient, wanted, eager in zip(actual, exact, plain, strict=True):
        assert_close_as_pytorch(gradient, wanted, eager, lse_magnitude=90.0)
