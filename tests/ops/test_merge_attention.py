"""``merge_attention``: results over disjoint key sets add up to the result over all keys."""

from __future__ import annotations

import pytest
import torch

from attention_cases import dense_attention, dense_in_fp64, random_qkv
from fourreal_kernels import axis_attention, merge_attention
from op_numerics import DTYPES, assert_close_as_pytorch, bitwise_equal, dtype_name

NEG_INF = float("-inf")


def attend(q, k, v, keys):
    """Attention of ``(B, S, D)`` over some of the keys, with lse -inf and out 0 where there is none."""
    if not keys:
        return torch.zeros_like(q), q.new_full(q.shape[:-1], NEG_INF)
    scores = q @ k[:, keys].transpose(1, 2)
    return torch.softmax(scores, -1) @ v[:, keys], torch.logsumexp(scores, -1)


def random_parts(count, dtype=torch.float64, shape=(2, 5), head_dim=6):
    lse_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    outs = [torch.randn(*shape, head_dim, dtype=torch.float64).to(dtype) for _ in range(count)]
    return outs, [3 * torch.randn(shape, dtype=lse_dtype) for _ in range(count)]


def weighted_sum(outs, lses):
    """The definition in fp64: weights exp(lse_i) relative to the largest."""
    stacked = torch.stack([lse.double() for lse in lses])
    weights = torch.softmax(stacked, 0)
    return sum(w[..., None] * out.double() for w, out in zip(weights, outs, strict=True)), torch.logsumexp(stacked, 0)


@pytest.mark.parametrize("split", [((0, 1, 2), (3, 4, 5, 6)), ((6,), (0, 2, 4), (1, 3, 5)), ((0, 1, 2, 3, 4, 5, 6),),
                                   ((), (0, 1, 2, 3, 4, 5, 6)), ((4, 5), (), (0, 1, 2, 3, 6), ())], ids=str)
def test_disjoint_splits_equal_the_whole(split):
    q, k, v = (torch.randn(2, 7, 4, dtype=torch.float64) for _ in range(3))
    parts = [attend(q, k, v, list(keys)) for keys in split]
    out, lse = merge_attention([part[0] for part in parts], [part[1] for part in parts])
    expected, expected_lse = attend(q, k, v, list(range(7)))
    assert_close_as_pytorch(out, expected, expected)
    assert_close_as_pytorch(lse, expected_lse, expected_lse)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_definition_in_every_dtype(dtype, count):
    outs, lses = random_parts(count, dtype, shape=(2, 3, 4, 5, 2), head_dim=16)
    out, lse = merge_attention(outs, lses)
    expected, expected_lse = weighted_sum(outs, lses)
    weights = torch.softmax(torch.stack(lses).to(dtype), 0)
    plain = sum(w[..., None] * x for w, x in zip(weights, outs, strict=True))
    assert out.dtype == dtype and lse.dtype == lses[0].dtype
    assert_close_as_pytorch(out, expected, plain)
    assert_close_as_pytorch(lse, expected_lse, torch.logsumexp(torch.stack(lses), 0))


def test_one_part_is_returned_unchanged():
    outs, lses = random_parts(1, torch.float32)
    out, lse = merge_attention(outs, lses)
    assert bitwise_equal(out, outs[0]) and bitwise_equal(lse, lses[0])


@pytest.mark.parametrize("magnitude", [80.0, 1e4, -1e4])
def test_large_log_sum_exps(magnitude):
    outs, lses = random_parts(3, torch.float32)
    lses = [lse + magnitude for lse in lses]
    expected, expected_lse = weighted_sum(outs, lses)
    out, lse = merge_attention(outs, lses)
    plain = sum(w[..., None] * x for w, x in zip(torch.softmax(torch.stack(lses), 0), outs, strict=True))
    assert_close_as_pytorch(out, expected, plain)
    assert_close_as_pytorch(lse, expected_lse, torch.logsumexp(torch.stack(lses), 0))


def test_far_apart_log_sum_exps_keep_the_larger():
    outs, _ = random_parts(2, torch.float32)
    lses = [torch.full((2, 5), 3e4), torch.full((2, 5), -3e4)]
    out, lse = merge_attention(outs, lses)
    assert bitwise_equal(out, outs[0]) and bitwise_equal(lse, lses[0])


def test_empty_sets_add_nothing():
    outs, lses = random_parts(3, torch.float32)
    lses[1] = torch.full_like(lses[1], NEG_INF)
    with_empty = merge_attention(outs, lses)
    without = merge_attention([outs[0], outs[2]], [lses[0], lses[2]])
    assert bitwise_equal(with_empty[0], without[0]) and bitwise_equal(with_empty[1], without[1])


def test_only_empty_sets_give_zero_and_minus_infinity():
    outs, lses = random_parts(2, torch.float32)
    out, lse = merge_attention(outs, [torch.full_like(x, NEG_INF) for x in lses])
    assert bool((out == 0).all()) and bool((lse == NEG_INF).all())


@pytest.mark.parametrize("use", ["out", "lse", "out and lse"])
def test_gradients_through_empty_sets(use):
    """Row 0 is empty in the first part, row 1 in both: they pass all of the gradient to the other part, or none."""
    outs, lses = random_parts(2)
    lses[0][0], lses[0][1], lses[1][1] = NEG_INF, NEG_INF, NEG_INF
    leaves = [x.requires_grad_() for x in (*outs, *lses)]
    out, lse = merge_attention(leaves[:2], leaves[2:])
    used = [x.sum() for name, x in (("out", out), ("lse", lse[0])) if name in use]
    sum(used).backward()
    one_if = {"out": torch.ones(5) * ("out" in use), "lse": torch.ones(5) * ("lse" in use)}
    expected_out_grad = one_if["out"].double()[:, None].expand(5, 6)
    if "out" in use:
        assert torch.equal(outs[1].grad[0], expected_out_grad)
        assert not outs[0].grad.any() and not outs[1].grad[1].any()
    assert not lses[0].grad.any()
    assert torch.equal(lses[1].grad, torch.stack([one_if["lse"].double(), torch.zeros(5, dtype=torch.float64)]))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gradcheck(count):
    outs, lses = random_parts(count, shape=(2, 2), head_dim=3)
    tensors = [x.requires_grad_() for x in (*outs, *lses)]
    torch.autograd.gradcheck(lambda *x: merge_attention(x[:count], x[count:]), tensors)
    torch.autograd.gradgradcheck(lambda *x: merge_attention(x[:count], x[count:]), tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_name)
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_union_is_view_part_and_time_part_without_the_own_frame(backend, dtype):
    """View attention, and time attention over the other frames of the view, have disjoint keys."""
    q, k, v = random_qkv(2, 3, 4, 7, 2, 16, dtype=dtype)
    view = axis_attention(q, k, v, "vn", return_lse=True, backend=backend)
    others = [time_attention_without_own_frame(q, k, v, time) for time in range(4)]
    time = [torch.cat(x, dim=2) for x in zip(*others, strict=True)]
    merged, merged_lse = merge_attention([view[0], time[0]], [view[1], time[1]])
    union, union_lse = axis_attention(q, k, v, "vn|tn", return_lse=True, backend=backend)
    expected, expected_lse = dense_in_fp64(q, k, v, "vn|tn")
    plain, plain_lse = dense_attention(q, k, v, "vn|tn")
    for out, lse in ((merged, merged_lse), (union, union_lse)):
        assert_close_as_pytorch(out, expected, plain, lse_magnitude=8.0)
        assert_close_as_pytorch(lse, expected_lse, plain_lse)


def time_attention_without_own_frame(q, k, v, time):
    """Outputs of one timestep over the same view's other timesteps: ``(B, V, 1, N, H, D)``."""
    query, keep = q[:, :, time], [t for t in range(q.shape[2]) if t != time]
    scores = torch.einsum("bvqhd,bvtkhd->bvqhtk", query, k[:, :, keep]).flatten(-2) * q.shape[-1] ** -0.5
    values = v[:, :, keep].flatten(2, 3)
    out = torch.einsum("bvqhs,bvshd->bvqhd", scores.softmax(-1), values)
    return out.unsqueeze(2), scores.logsumexp(-1).unsqueeze(2)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_split_tokens_merge_to_view_attention_with_gradients(backend):
    """Attention to two halves of the views, merged, equals view attention; so do its gradients through the lse."""
    qkv = random_qkv(1, 4, 2, 3, 2, 8, dtype=torch.float64)
    leaves = [x.clone().requires_grad_() for x in qkv]
    q, k, v = leaves
    halves = []
    for keys in (slice(0, 2), slice(2, 4)):
        rotated = [torch.cat([x[:, keys], x[:, keys]], dim=1) for x in (k, v)]
        pairs = [axis_attention(q[:, rows], *(x[:, rows] for x in rotated), "vn", return_lse=True, backend=backend)
                 for rows in (slice(0, 2), slice(2, 4))]
        halves.append([torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True)])
    out, lse = merge_attention([half[0] for half in halves], [half[1] for half in halves])
    grads = torch.randn_like(out), torch.randn_like(lse)
    torch.autograd.backward([out, lse], grads)
    copies = [x.clone().requires_grad_() for x in qkv]
    expected = dense_attention(*copies, "vn")
    torch.autograd.backward(expected, grads)
    assert_close_as_pytorch(out, expected[0], expected[0])
    assert_close_as_pytorch(lse, expected[1], expected[1])
    for leaf, copy in zip(leaves, copies, strict=True):
        assert_close_as_pytorch(leaf.grad, copy.grad, copy.grad)


def test_strided_parts():
    outs, lses = random_parts(2, torch.float32)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in outs]
    expected = merge_attention(outs, lses)
    actual = merge_attention(tuple(strided), tuple(lses))
    assert bitwise_equal(actual[0], expected[0]) and bitwise_equal(actual[1], expected[1])
