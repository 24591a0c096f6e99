"""``axis_attention`` and ``two_stream_attention`` by Triton kernels, forward and backward: against the dense mask."""

from __future__ import annotations

import pytest
import torch

import fourreal_kernels
from attention_cases import accumulation_dtype, dense_attention, random_qkv
from fourreal_kernels import axis_attention, tuning, two_stream_attention
from fourreal_kernels.grid import parse_axes
from fourreal_kernels.ops.axis_attention import triton as backend
from fourreal_kernels.ops.axis_attention import triton_launch, triton_relation
from interpreter_calls import patched_once
from op_layouts import LAYOUTS, STRIDED
from op_numerics import assert_close_as_pytorch, bitwise_equal, dtype_name, poisoned

KEY_LIST_AXES = ("vn", "tn", "vn|tn", "n", "vtn")
POINTWISE_AXES = ("v", "t", "vt", "v|t")
DTYPES = (torch.float32, torch.bfloat16)
LSE_MAGNITUDE = 8.0
"""A backward takes its weights as exp(score - lse) from an lse rounded to fp32; here lse stays below 8."""


def results_and_gradients(attend, qkv, grads):
    """out, lse, dq, dk, dv of ``attend(q, k, v) -> (out, lse)`` in the dtype of the inputs."""
    leaves = [x.detach().requires_grad_() for x in qkv]
    out, lse = attend(*leaves)
    torch.autograd.backward((out, lse), [grad.to(x.dtype) for grad, x in zip(grads, (out, lse), strict=True)])
    return [out.detach(), lse.detach(), *(x.grad for x in leaves)]


def random_grads(q, dtype):
    """Gradients of out and lse, in fp64 but exact in ``dtype``."""
    return (torch.randn(q.shape).to(dtype).double(), torch.randn(q.shape[:5], dtype=torch.float32).double())


def check(axes, qkv, scale=None, lse_magnitude=LSE_MAGNITUDE):
    """Forward and backward of the Triton backend against the dense mask in fp64 and in the same dtype."""
    dtype = qkv[0].dtype
    grads = random_grads(qkv[0], dtype)

    def dense(q, k, v):
        out, lse = dense_attention(q, k, v, axes, scale)
        return out, lse.to(accumulation_dtype(dtype)) if q.dtype == dtype else lse

    def kernels(q, k, v):
        return axis_attention(q, k, v, axes, scale=scale, return_lse=True, backend="triton")

    expected = results_and_gradients(dense, [x.double() for x in qkv], grads)
    eager = results_and_gradients(dense, qkv, grads)
    for actual, wanted, same_dtype in zip(results_and_gradients(kernels, qkv, grads), expected, eager, strict=True):
        assert_close_as_pytorch(actual, wanted, same_dtype, lse_magnitude=lse_magnitude)


@pytest.fixture(autouse=True, scope="module")
def cheap_calls():
    with patched_once():
        yield


@pytest.fixture
def blocks(monkeypatch):
    """Replaces the tile sizes of every kernel by small ones, so that small grids have many tiles."""

    def choose(own, listed, descriptors=0):
        common = {"num_warps": 4, "num_stages": 1}
        walk_keys, walk_queries = {"BLOCK_Q": own, "BLOCK_K": listed}, {"BLOCK_Q": listed, "BLOCK_K": own}
        configs = {
            "attention_forward": {**walk_keys, "DESCRIPTORS": descriptors, **common},
            "attention_backward_rows": {"BLOCK": 16, **common},
            "attention_backward_keys": {**walk_queries, **common},
            "attention_backward_queries": {**walk_keys, **common},
        }
        monkeypatch.setattr(triton_launch, "configuration", lambda kernel, relation, q: configs[kernel])

    return choose


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("axes", KEY_LIST_AXES)
def test_axes(axes, dtype):
    check(axes, random_qkv(1, 3, 2, 7, 1, 16, dtype=dtype))


@pytest.mark.parametrize("axes", POINTWISE_AXES)
def test_axes_of_one_position(axes):
    check(axes, random_qkv(1, 2, 2, 2, 1, 16))


@pytest.mark.parametrize("axes, shape", [
    ("vn", (2, 2, 1, 7, 1, 40)), ("tn", (1, 1, 2, 100, 1, 128)), ("vn|tn", (1, 1, 2, 65, 1, 64)),
    ("vn|tn", (1, 1, 3, 7, 1, 5)), ("vn|tn", (1, 3, 1, 1, 2, 40)), ("vtn", (1, 2, 2, 1, 1, 96)),
    ("n", (1, 1, 1, 100, 1, 64)), ("vn", (1, 1, 1, 1, 1, 1)),
], ids=str)
def test_odd_shapes(axes, shape):
    check(axes, random_qkv(*shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
def test_low_precision_over_many_tiles(dtype):
    check("vn", random_qkv(1, 2, 1, 65, 1, 40, dtype=dtype))


@pytest.mark.parametrize("axes, tokens, span", [
    ("tn", 24, "line"), ("vn", 32, "one"), ("vn", 24, "two"), ("vn", 7, "any"),
    ("vn|tn", 16, "one"), ("vn|tn", 24, "two"), ("vn|tn", 7, "any"), ("vtn", 9, "line"),
])
def test_each_way_to_walk_a_frame_list(blocks, axes, tokens, span):
    blocks(32, 16)
    qkv = random_qkv(1, 2, 2, tokens, 1, 16)
    relation = triton_relation.Relation.of(parse_axes(axes))
    keys = [relation.seen(x) for x in qkv[1:]]
    assert relation.walk(keys[0].shape, 16, keys)["SPAN"] == span
    check(axes, qkv)


@pytest.mark.parametrize("axes", ["vtn", "vn|tn"])
def test_frames_that_lie_apart(blocks, axes):
    blocks(32, 16)
    check(axes, [LAYOUTS["stepped"](x) for x in random_qkv(1, 2, 2, 9, 1, 16)])


@pytest.mark.parametrize("layout", STRIDED)
def test_strides(layout):
    q, k, v = random_qkv(1, 2, 2, 5, 2, 8)
    check("vn|tn", [LAYOUTS[layout](q), LAYOUTS["sliced"](k), LAYOUTS[layout](v)])


def test_tokens_further_apart_than_int32_reaches(monkeypatch):
    monkeypatch.setattr(triton_relation, "_INT32_RANGE", 1)
    check("vn|tn", random_qkv(1, 2, 2, 9, 1, 16))


@pytest.mark.parametrize("scale", [-0.3, 0.0, 40.0])
def test_scale(scale):
    check("vn", random_qkv(1, 2, 1, 9, 1, 16), scale, lse_magnitude=20 * abs(scale) + LSE_MAGNITUDE)


def test_head_dims_that_16_does_not_divide_are_read_16_bytes_at_a_time():
    q, k, v = random_qkv(1, 1, 2, 3, 2, 40, dtype=torch.bfloat16)
    assert triton_launch._unit([q, k, v]) == 8
    assert triton_launch._unit([q, LAYOUTS["sliced"](k), v]) == 1


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (0, 4, 2, 1, 3, 5)], ids=str)
@pytest.mark.parametrize("axes", ["vn", "vn|tn"])
def test_writes_its_outputs_and_nothing_else(axes, order):
    q, k, v = (LAYOUTS["sliced"](x) for x in random_qkv(1, 2, 2, 7, 2, 12))
    out, lse = poisoned(q.shape, q.dtype, order), poisoned(q.shape[:5], q.dtype)
    grads = [poisoned(q.shape, q.dtype, order) for _ in range(3)]
    parsed = parse_axes(axes)
    backend.forward(q, k, v, parsed, 0.3, out.destination, lse.destination)
    grad_out = LAYOUTS["sliced"](torch.randn(q.shape))
    grad_lse = torch.randn(1).expand(q.shape[:5])
    inputs = (q, k, v, out.destination, lse.destination)
    backend.backward(grad_out, grad_lse, *inputs, parsed, 0.3, [x.destination for x in grads])
    for result in (out, lse, *grads):
        result.assert_written_exactly()
    expected = dense_attention(q, k, v, axes, 0.3)
    torch.testing.assert_close(out.destination, expected[0])
    torch.testing.assert_close(lse.destination, expected[1])


def test_gradient_of_one_result():
    qkv = [x.requires_grad_() for x in random_qkv(1, 2, 1, 5, 1, 16)]
    for used in (0, 1):
        result = axis_attention(*qkv, "vn", return_lse=True, backend="triton")[used]
        expected = torch.autograd.grad(dense_attention(*qkv, "vn")[used].sum(), qkv, allow_unused=True)
        for actual, wanted in zip(torch.autograd.grad(result.sum(), qkv), expected, strict=True):
            torch.testing.assert_close(actual, torch.zeros_like(actual) if wanted is None else wanted)


def test_backward_repeats_bitwise():
    qkv = random_qkv(1, 2, 2, 9, 1, 16, dtype=torch.bfloat16)
    grads = random_grads(qkv[0], torch.bfloat16)

    def attend(q, k, v):
        return axis_attention(q, k, v, "vn|tn", return_lse=True, deterministic=True, backend="triton")

    first, second = (results_and_gradients(attend, qkv, grads) for _ in range(2))
    assert all(bitwise_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("axes", ["vn", "tn", "vn|tn", "vtn"])
def test_descriptors_give_the_bits_of_pointers(monkeypatch, blocks, axes):
    q, k, v = random_qkv(1, 2, 2, 16, 2, 32, dtype=torch.float16)
    blocks(64, 16)
    expected = axis_attention(q, k, v, axes, return_lse=True, backend="triton")
    described = []
    monkeypatch.setattr(
        triton_launch, "describe",
        lambda x, block, describe=triton_launch.describe: described.append(x) or describe(x, block),
    )
    blocks(64, 16, descriptors=1)
    actual = axis_attention(q, k, v, axes, return_lse=True, backend="triton")
    assert len(described) == 2
    assert all(bitwise_equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("form", ["heads apart", "part of a tile", "unaligned", "odd head dim", "expanded"])
def test_descriptors_are_not_made_where_the_hardware_cannot(form):
    x = {
        "heads apart": lambda: LAYOUTS["heads_first"](torch.zeros(1, 2, 2, 32, 2, 32)),
        "part of a tile": lambda: torch.zeros(1, 2, 2, 24, 2, 32),
        "unaligned": lambda: torch.zeros(1 + 2 * 2 * 32 * 2 * 32)[1:].view(1, 2, 2, 32, 2, 32),
        "odd head dim": lambda: torch.zeros(1, 2, 2, 32, 2, 40),
        "expanded": lambda: torch.zeros(1, 2, 1, 32, 2, 32).expand(1, 2, 2, 32, 2, 32),
    }[form]()
    assert triton_launch.describable(torch.zeros(1, 2, 2, 32, 2, 32), 16)
    assert not triton_launch.describable(x, 16)


@pytest.mark.parametrize("shape, layouts", [
    ((1, 2, 3, 7, 1, 16), ("contiguous", "time_first")), ((1, 3, 1, 65, 1, 40), ("packed", "sliced")),
    ((1, 1, 2, 16, 2, 8), ("heads_first", "stepped")),
], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_two_streams_in_one_launch(dtype, shape, layouts):
    streams = [[LAYOUTS[layout](x) for x in random_qkv(*shape, dtype=dtype)] for layout in layouts]
    for out, qkv, axes in zip(two_stream_attention(*streams, backend="triton"), streams, ("vn", "tn"), strict=True):
        assert_close_as_pytorch(
            out, dense_attention(*(x.double() for x in qkv), axes)[0], dense_attention(*qkv, axes)[0]
        )


def test_gradient_of_two_streams():
    streams = [[x.requires_grad_() for x in random_qkv(1, 2, 3, 5, 1, 16)] for _ in range(2)]
    leaves = streams[0] + streams[1]
    results = two_stream_attention(*streams, backend="triton")
    expected = [dense_attention(*qkv, axes)[0] for qkv, axes in zip(streams, ("vn", "tn"), strict=True)]
    weights = [torch.randn_like(x) for x in results]
    wanted = torch.autograd.grad(expected, leaves, weights)
    for actual, gradient in zip(torch.autograd.grad(results, leaves, weights), wanted, strict=True):
        torch.testing.assert_close(actual, gradient)


def test_gradients_of_keys_and_values_in_launches_of_their_own():
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 2, 3, 5, 1, 16))
    grad = torch.randn_like(q)
    together = torch.autograd.grad(axis_attention(q, k, v, "vn|tn", backend="triton"), (q, k, v), grad)
    config = tuning.config("attention_backward_keys", arch="interpreter")
    with tuning.forced("attention_backward_keys", config | {"SPLIT": 1}):
        split = torch.autograd.grad(axis_attention(q, k, v, "vn|tn", backend="triton"), (q, k, v), grad)
    assert all(bitwise_equal(*pair) for pair in zip(together, split, strict=True))


def test_refusals():
    q, k, v = random_qkv(1, 2, 2, 3, 1, 8)
    explain = fourreal_kernels.explain
    assert explain("axis_attention", q, k, v, "vn", backend="triton").chosen == "triton"
    assert explain("axis_attention", q, k, v, "vn").chosen != "triton"
    for arguments, reason in (
        ((*random_qkv(1, 2, 2, 3, 1, 8, dtype=torch.float64), "vn"), "float64"),
        ((*random_qkv(1, 1, 1, 2, 1, 257), "vn"), "head dims up to 256, got 257"),
        ((q, k, v, "vt|n"), "'vn|tn' and 'v|t', the call is 'vt|n'"),
    ):
        with pytest.raises(NotImplementedError, match=reason.replace("|", r"\|")):
            axis_attention(*arguments, backend="triton")
