"""``axis_attention`` with extra keys and values by Triton kernels, forward and backward: against the dense mask."""

from __future__ import annotations

import pytest
import torch

from attention_cases import accumulation_dtype, dense_attention, random_qkv
from fourreal_kernels import axis_attention, tuning
from fourreal_kernels.grid import parse_axes
from fourreal_kernels.ops.axis_attention import triton as backend
from fourreal_kernels.ops.axis_attention import triton_extra, triton_launch, triton_relation
from interpreter_calls import patched_once
from op_layouts import LAYOUTS
from op_numerics import assert_close_as_pytorch, bitwise_equal, dtype_name, poisoned

LSE_MAGNITUDE = 8.0
FRAMES = ("vn", "tn", "vn|tn", "n", "vtn")


def random_extra(q, tokens):
    return [torch.randn(q.shape[0], tokens, *q.shape[4:], dtype=torch.float64).to(q.dtype) for _ in range(2)]


def results_and_gradients(attend, inputs, grads):
    """out, lse and the gradients of q, k, v, extra_k, extra_v."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out, lse = attend(*leaves)
    torch.autograd.backward((out, lse), [grad.to(x.dtype) for grad, x in zip(grads, (out, lse), strict=True)])
    return [out.detach(), lse.detach(), *(x.grad for x in leaves)]


def kernels(axes, scale=None):
    def attend(q, k, v, extra_k, extra_v):
        return axis_attention(
            q, k, v, axes, extra_k=extra_k, extra_v=extra_v, scale=scale, return_lse=True, backend="triton"
        )

    return attend


def check(axes, qkv, extra, scale=None):
    """Against the dense mask in fp64 and in the same dtype."""
    dtype = qkv[0].dtype
    inputs = [*qkv, *extra]
    grads = torch.randn(qkv[0].shape).to(dtype).double(), torch.randn(qkv[0].shape[:5]).double()

    def dense(q, k, v, *extra):
        out, lse = dense_attention(q, k, v, axes, scale, extra)
        return out, lse.to(accumulation_dtype(q.dtype))

    expected = results_and_gradients(dense, [x.double() for x in inputs], grads)
    eager = results_and_gradients(dense, inputs, grads)
    actual = results_and_gradients(kernels(axes, scale), inputs, grads)
    for found, wanted, same_dtype in zip(actual, expected, eager, strict=True):
        assert_close_as_pytorch(found, wanted, same_dtype, lse_magnitude=LSE_MAGNITUDE)


def check_random(axes, shape, extra_tokens, dtype=torch.float32, scale=None):
    qkv = random_qkv(*shape, dtype=dtype)
    check(axes, qkv, random_extra(qkv[0], extra_tokens), scale)


@pytest.fixture(autouse=True, scope="module")
def cheap_calls():
    with patched_once():
        yield


@pytest.fixture
def tiles_of_16(monkeypatch):
    """Replaces the tiles of every kernel by small ones, so that small grids have many."""

    def choose(**options):
        config = {"BLOCK_Q": 16, "BLOCK_K": 16, "num_warps": 4, "num_stages": 1}
        configs = {"attention_forward": config | {"DESCRIPTORS": 0} | options,
                   "attention_backward_rows": {"BLOCK": 64, "num_warps": 4, "num_stages": 1}}
        monkeypatch.setattr(triton_launch, "configuration", lambda kernel, relation, q: configs.get(kernel, config))

    return choose


@pytest.mark.parametrize("axes, dtype", [
    *((axes, torch.float32) for axes in FRAMES), ("vn|tn", torch.bfloat16), ("tn", torch.bfloat16),
], ids=lambda x: dtype_name(x) or x)
def test_axes(axes, dtype):
    check_random(axes, (1, 2, 2, 7, 1, 16), 5, dtype)


@pytest.mark.parametrize("axes, shape, extra_tokens", [
    ("vn", (2, 2, 1, 7, 1, 40), 1), ("tn", (1, 1, 1, 65, 1, 64), 77), ("vn|tn", (1, 1, 2, 7, 2, 40), 77),
    ("vn|tn", (1, 2, 2, 1, 1, 64), 5), ("vtn", (1, 2, 1, 7, 1, 64), 65), ("n", (1, 1, 1, 1, 1, 1), 1),
], ids=str)
def test_odd_sizes(axes, shape, extra_tokens):
    check_random(axes, shape, extra_tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
def test_low_precision_over_many_tiles(dtype):
    check_random("n", (1, 1, 1, 65, 1, 40), 77, dtype)


@pytest.mark.parametrize("axes", ["v", "t", "vt", "v|t"])
def test_any_axes_where_a_frame_is_one_token(axes):
    check_random(axes, (1, 2, 2, 1, 1, 16), 5)


@pytest.mark.parametrize("extra_tokens", [32, 37])
@pytest.mark.parametrize("tokens", [16, 19])
def test_whole_tiles_and_tails(tiles_of_16, tokens, extra_tokens):
    tiles_of_16()
    check_random("n", (1, 1, 1, tokens, 1, 16), extra_tokens)


@pytest.mark.parametrize("layout, extra", [
    ("sliced", "broadcast"), ("sliced", "sliced"), ("time_first", "sliced"), ("heads_first", "sliced"),
])
def test_strides(layout, extra):
    qkv = [LAYOUTS[layout](x) for x in random_qkv(2, 2, 1, 5, 1, 8)]
    values = random_extra(qkv[0], 6)
    if extra == "broadcast":
        strided = [x[:1].expand(2, -1, -1, -1) for x in values]
    else:
        strided = [x.new_full((2, 13, 2, 11), float("nan"))[:, 1:13:2, 1:, 2:10].copy_(x) for x in values]
    check("vn|tn", qkv, strided)


def test_tokens_further_apart_than_int32_reaches(monkeypatch):
    monkeypatch.setattr(triton_relation, "_INT32_RANGE", 1)
    check_random("vn", (1, 2, 1, 5, 1, 16), 3)


def test_distance_of_extra_tokens_decides_about_int32():
    x = torch.zeros(1, 2, 1, 5, 1, 16)
    near, far = (torch.empty_strided((1, 3, 1, 16), (0, step, 0, 1), device="meta") for step in (2**25 - 1, 2**25))
    walk = triton_extra.EVERY_TOKEN.walk
    assert not walk(x.shape, 64, [x], [near])["WIDE"] and walk(x.shape, 64, [x], [near, far])["WIDE"]


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_scale(scale):
    check_random("vn", (1, 2, 1, 5, 1, 16), 3, scale=scale)


def test_gradients_of_extra_tokens_from_chunks_of_queries(tiles_of_16, monkeypatch):
    """Three tiles of queries in two chunks, of two tiles and of a part of one; two batches, two tiles of keys."""
    tiles_of_16()
    shape = (2, 1, 1, 35, 1, 16)
    monkeypatch.setattr(triton_extra, "_PROGRAMS", 2 * 2 * 2)
    assert triton_extra.Chunks.of(shape, 17, 16, 16) == triton_extra.Chunks(2, 32, 8)
    check_random("tn", shape, 17)


@pytest.mark.parametrize("shape", [
    (1, 8, 8, 576, 16, 64), (2, 8, 5, 3600, 24, 128), (1, 1, 1, 1, 1, 1), (1, 2, 3, 65, 1, 40),
    (8, 8, 8, 1024, 40, 256),
], ids=str)
@pytest.mark.parametrize("extra_tokens", [1, 77, 226, 4096])
def test_chunks_cover_the_queries_within_the_scratch(shape, extra_tokens):
    chunks = triton_extra.Chunks.of(shape, extra_tokens, 64, 128)
    batch, views, times, tokens, heads, head_dim = shape
    assert chunks.rows % 64 == 0
    assert (chunks.count - 1) * chunks.rows < views * times * tokens <= chunks.count * chunks.rows
    assert chunks.programs == chunks.count * batch * heads * -(-extra_tokens // 128)
    assert chunks.count == 1 or 8 * chunks.count * batch * extra_tokens * heads * head_dim < 32e6
    if chunks.count == 1:
        grads = tuple(torch.empty(1, 2, 1, 4, dtype=torch.bfloat16) for _ in range(2))
        assert all(part is grad for part, grad in zip(chunks.destinations(grads), grads, strict=True))


def test_gradients_of_keys_and_values_in_launches_of_their_own():
    q, k, v = random_qkv(1, 2, 1, 5, 1, 16)
    inputs = [q, k, v, *random_extra(q, 3)]
    grads = torch.randn(q.shape), torch.randn(q.shape[:5])
    together = results_and_gradients(kernels("vn"), inputs, grads)
    config = tuning.config("attention_backward_keys", arch="interpreter")
    with tuning.forced("attention_backward_keys", config | {"SPLIT": 1}):
        split = results_and_gradients(kernels("vn"), inputs, grads)
    assert all(bitwise_equal(*pair) for pair in zip(together, split, strict=True))


def test_descriptors_give_the_bits_of_pointers(tiles_of_16):
    q, k, v = random_qkv(1, 2, 1, 16, 1, 32, dtype=torch.float16)
    extra = random_extra(q, 19)
    results = []
    for descriptors in (0, 1):
        tiles_of_16(DESCRIPTORS=descriptors)
        results.append(kernels("vn")(q, k, v, *extra))
    assert all(bitwise_equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("axes, chunks", [("vn", 2), ("vn|tn", 1)])
def test_writes_its_outputs_and_nothing_else(tiles_of_16, monkeypatch, axes, chunks):
    tiles_of_16()
    monkeypatch.setattr(triton_extra, "_PROGRAMS", 2 * chunks)
    q, k, v = (LAYOUTS["sliced"](x) for x in random_qkv(1, 2, 1, 9, 2, 12))
    extra = [x.new_full((1, 8, 4, 15), float("nan"))[:, 1:6, 1:3, 2:14].copy_(x) for x in random_extra(q, 5)]
    assert triton_extra.Chunks.of(q.shape, 5, 16, 16).count == chunks
    out, lse = poisoned(q.shape, q.dtype), poisoned(q.shape[:5], q.dtype)
    grads = [poisoned(x.shape, x.dtype) for x in (q, k, v)]
    extra_grads = [poisoned(x.shape, x.dtype, (0, 2, 1, 3)) for x in extra]
    parsed = parse_axes(axes)
    backend.forward(q, k, v, parsed, 0.3, out.destination, lse.destination, extra)
    backend.backward(
        torch.randn(q.shape), None, q, k, v, out.destination, lse.destination, parsed, 0.3,
        [x.destination for x in grads], extra, [x.destination for x in extra_grads],
    )
    for result in (out, lse, *grads, *extra_grads):
        result.assert_written_exactly()
    expected = dense_attention(q, k, v, axes, 0.3, extra)
    torch.testing.assert_close(out.destination, expected[0])
    torch.testing.assert_close(lse.destination, expected[1])


def test_backward_repeats_bitwise(tiles_of_16, monkeypatch):
    tiles_of_16()
    monkeypatch.setattr(triton_extra, "_PROGRAMS", 3)
    q, k, v = random_qkv(1, 2, 1, 17, 1, 16, dtype=torch.bfloat16)
    inputs, grads = [q, k, v, *random_extra(q, 9)], (torch.randn(q.shape), torch.randn(q.shape[:5]))
    first, second = (results_and_gradients(kernels("vn"), inputs, grads) for _ in range(2))
    assert all(bitwise_equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("axes", ["v", "v|t"])
def test_refuses_pointwise_axes(axes):
    q, k, v = random_qkv(1, 2, 2, 3, 1, 8)
    with pytest.raises(NotImplementedError, match="where every group of axes has n, the call is"):
        kernels(axes)(q, k, v, *random_extra(q, 2))
