"""``two_stream_attention``: view attention of one stream and time attention of the other."""

from __future__ import annotations

import pytest
import torch

from attention_cases import dense_attention, dense_in_fp64, random_qkv
from fourreal_kernels import axis_attention, two_stream_attention
from op_backends import backends, can_run
from op_layouts import LAYOUTS
from op_numerics import DTYPES, assert_close_as_pytorch, bitwise_equal, dtype_name

BACKENDS = backends("two_stream_attention")
GRIDS = [(2, 3, 4, 7, 2, 16), (3, 1, 4, 5, 1, 8), (3, 4, 1, 5, 1, 8), (1, 3, 2, 1, 2, 40), (1, 1, 1, 1, 1, 64)]


def check_forward(backend, view_qkv, time_qkv):
    if not can_run("two_stream_attention", backend, view_qkv, time_qkv):
        return
    results = two_stream_attention(view_qkv, time_qkv, backend=backend)
    for out, qkv, axes in zip(results, (view_qkv, time_qkv), ("vn", "tn"), strict=True):
        assert_close_as_pytorch(out, dense_in_fp64(*qkv, axes)[0], dense_attention(*qkv, axes)[0])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_stream_attends_along_its_axis(backend, dtype, grid):
    view_qkv, time_qkv = random_qkv(*grid, dtype=dtype), random_qkv(*grid, dtype=dtype)
    check_forward(backend, view_qkv, time_qkv)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_two_calls_bitwise(backend, scale):
    view_qkv, time_qkv = random_qkv(2, 3, 4, 7, 2, 16), random_qkv(2, 3, 4, 7, 2, 16)
    if not can_run("two_stream_attention", backend, view_qkv, time_qkv, scale=scale):
        return
    out_view, out_time = two_stream_attention(tuple(view_qkv), time_qkv, scale=scale, backend=backend)
    assert bitwise_equal(out_view, axis_attention(*view_qkv, "vn", scale=scale, backend=backend))
    assert bitwise_equal(out_time, axis_attention(*time_qkv, "tn", scale=scale, backend=backend))


@pytest.mark.parametrize("view_layout, time_layout", [("packed", "heads_first"), ("time_first", "sliced")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_of_different_layouts(backend, view_layout, time_layout):
    view_qkv, time_qkv = random_qkv(2, 3, 4, 7, 2, 16), random_qkv(2, 3, 4, 7, 2, 16)
    check_forward(backend, [LAYOUTS[view_layout](x) for x in view_qkv], [LAYOUTS[time_layout](x) for x in time_qkv])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    tensors = [x.requires_grad_() for _ in range(2) for x in random_qkv(1, 2, 2, 1, 1, 4, dtype=torch.float64)]
    if can_run("two_stream_attention", backend, tensors[:3], tensors[3:]):
        torch.autograd.gradcheck(
            lambda *x: two_stream_attention(x[:3], x[3:], scale=0.7, backend=backend), tensors
        )


@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_that_is_not_used_gets_no_gradient(backend, used):
    tensors = [x.requires_grad_() for _ in range(2) for x in random_qkv(1, 2, 3, 4, 2, 8)]
    if not can_run("two_stream_attention", backend, tensors[:3], tensors[3:]):
        return
    two_stream_attention(tensors[:3], tensors[3:], backend=backend)[used].sum().backward()
    for stream in (0, 1):
        for x in tensors[3 * stream : 3 * stream + 3]:
            assert (x.grad is not None and bool(x.grad.abs().max() > 0)) == (stream == used)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_repeats_bitwise(backend):
    tensors = [x.requires_grad_() for _ in range(2) for x in random_qkv(2, 3, 2, 9, 2, 16)]
    if not can_run("two_stream_attention", backend, tensors[:3], tensors[3:]):
        return
    outs = two_stream_attention(tensors[:3], tensors[3:], backend=backend)
    grads = [torch.randn_like(out) for out in outs]
    first = torch.autograd.grad(outs, tensors, grads, retain_graph=True)
    again = torch.autograd.grad(outs, tensors, grads)
    assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_may_share_tensors(backend):
    """The first layer gives both streams the same tokens; gradients add up."""
    qkv = [x.requires_grad_() for x in random_qkv(1, 2, 3, 4, 2, 8, dtype=torch.float64)]
    if not can_run("two_stream_attention", backend, qkv, qkv):
        return
    view, time = two_stream_attention(qkv, qkv, backend=backend)
    actual = torch.autograd.grad(view.sum() + 2 * time.sum(), qkv)
    expected = torch.autograd.grad(
        dense_attention(*qkv, "vn")[0].sum() + 2 * dense_attention(*qkv, "tn")[0].sum(), qkv
    )
    for a, b in zip(actual, expected, strict=True):
        assert_close_as_pytorch(a, b, b)
