"""Forward of ``axis_attention``: the reference against a dense mask in fp64, other backends against the reference."""

from __future__ import annotations

import pytest
import torch

from attention_cases import (
    AXES,
    TOKENS,
    accumulation_dtype,
    dense_attention,
    dense_in_fp64,
    gathered_attention,
    random_qkv,
)
from fourreal_kernels import axis_attention
from op_backends import backends, can_run
from op_layouts import LAYOUTS, STRIDED
from op_numerics import DTYPES, assert_close_as_pytorch, bitwise_equal, dtype_name, poisoned

BACKENDS = backends("axis_attention")
GRIDS = {
    "one view": (3, 1, 4, 5), "one timestep": (3, 4, 1, 5), "one token": (3, 3, 4, 1), "one frame": (2, 1, 1, 6),
    "one line": (1, 1, 5, 1), "one of each": (1, 1, 1, 1), "batch of three": (3, 2, 3, 5),
}
MEMORY_ORDERS = {
    "natural": (0, 1, 2, 3, 4, 5), "time first": (0, 2, 1, 3, 4, 5), "heads first": (0, 4, 1, 2, 3, 5),
    "tokens first": (3, 0, 2, 1, 4, 5),
}


def exact(q, k, v, axes, scale, backend):
    """What a backend is compared with: the dense mask for the reference, the reference for the others, in fp64."""
    if backend == "reference":
        return dense_in_fp64(q, k, v, axes, scale)
    q, k, v = (x.double() for x in (q, k, v))
    return axis_attention(q, k, v, axes, scale=scale, return_lse=True, backend="reference")


def plain_pytorch(q, k, v, axes, scale, backend):
    """Results and log-sum-exps of the plain forms whose error bounds a backend's.

    The reference is plain PyTorch with a product for each line, and BLAS libraries sum those of few rows in an order of
    their own (MKL on AMD: one channel after the other, with three times the error of the masked form at 256 channels).
    """
    forms = (dense_attention, gathered_attention) if backend == "reference" else (dense_attention,)
    return zip(*(form(q, k, v, axes, scale) for form in forms), strict=True)


def merges_by_lse(axes, backend):
    """The sdpa backend builds a union from three results weighted by their rounded log-sum-exps."""
    return backend == "sdpa" and "|" in axes


def check_forward(q, k, v, axes, backend, scale=None):
    if not can_run("axis_attention", backend, q, k, v, axes, scale=scale):
        return
    out, lse = axis_attention(q, k, v, axes, scale=scale, return_lse=True, backend=backend)
    expected, expected_lse = exact(q, k, v, axes, scale, backend)
    plain, plain_lse = plain_pytorch(q, k, v, axes, scale, backend)
    merged = expected_lse.abs().max().item() if merges_by_lse(axes, backend) else 0.0
    assert_close_as_pytorch(out, expected, *plain, lse_magnitude=merged)
    assert_close_as_pytorch(lse, expected_lse, *(x.to(accumulation_dtype(q.dtype)) for x in plain_lse))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_axes_row_in_every_dtype(backend, axes, dtype):
    check_forward(*random_qkv(2, 3, 4, 7, 2, 16, dtype=dtype), axes, backend)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_token_counts(backend, axes, tokens):
    views, times = (3, 2) if tokens < 100 else (2, 2) if tokens < 200 else (1, 2)
    check_forward(*random_qkv(1, views, times, tokens, 1, 16), axes, backend)


@pytest.mark.parametrize("tokens", [65, 240])
@pytest.mark.parametrize("axes", ["vn", "tn", "vn|tn"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
@pytest.mark.parametrize("backend", BACKENDS)
def test_long_lines_in_half_precision(backend, dtype, axes, tokens):
    check_forward(*random_qkv(1, 2, 2, tokens, 1, 40, dtype=dtype), axes, backend)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_axes_of_size_one(backend, axes, grid):
    check_forward(*random_qkv(*GRIDS[grid], 2, 16), axes, backend)


@pytest.mark.parametrize("head_dim", [1, 3, 16, 40, 64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("axes", ["vn", "v", "vn|tn", "v|t"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_head_dims(backend, axes, dtype, head_dim):
    check_forward(*random_qkv(2, 3, 2, 9, 3, head_dim, dtype=dtype), axes, backend)


@pytest.mark.parametrize("scale", [0.0, -0.7, 1, 2.5])
@pytest.mark.parametrize("axes", ["tn", "vn|tn"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_scales(backend, axes, scale):
    check_forward(*random_qkv(1, 3, 2, 5, 2, 16), axes, backend, scale)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_keys_through_expanded_inputs(backend, axes):
    """Keys and values of one head expanded to all heads are read where they lie."""
    q, k, v = random_qkv(2, 2, 3, 4, 3, 16)
    k, v = (x[:, :, :, :, :1].expand_as(q) for x in (k, v))
    check_forward(q, k, v, axes, backend)


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_change_the_result(backend, axes, layout):
    dense = random_qkv(3, 2, 3, 5, 2, 16)
    strided = [LAYOUTS[layout](x) for x in dense]
    if not can_run("axis_attention", backend, *strided, axes):
        return
    out, lse = axis_attention(*strided, axes, return_lse=True, backend=backend)
    exact, exact_lse = dense_in_fp64(*dense, axes)
    contiguous, contiguous_lse = axis_attention(*dense, axes, return_lse=True, backend=backend)
    assert_close_as_pytorch(out, exact, contiguous)
    assert_close_as_pytorch(lse, exact_lse, contiguous_lse)
    for x, y in zip(strided, dense, strict=True):
        assert bitwise_equal(x, y), "an input was written"


@pytest.mark.parametrize("axes", ["vn", "v|t", "vn|tn"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_of_three_different_layouts(backend, axes):
    dense = random_qkv(2, 2, 3, 5, 2, 16)
    mixed = [LAYOUTS[name](x) for name, x in zip(("heads_first", "sliced", "time_first"), dense, strict=True)]
    if not can_run("axis_attention", backend, *mixed, axes):
        return
    contiguous = axis_attention(*dense, axes, backend=backend)
    assert_close_as_pytorch(axis_attention(*mixed, axes, backend=backend), dense_in_fp64(*dense, axes)[0], contiguous)


@pytest.mark.parametrize("order", MEMORY_ORDERS)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_out_writes_its_elements_and_no_others(backend, axes, order):
    q, k, v = random_qkv(2, 3, 2, 5, 2, 16)
    target = poisoned(q.shape, q.dtype, MEMORY_ORDERS[order])
    if not can_run("axis_attention", backend, q, k, v, axes, out=target.destination):
        return
    returned, lse = axis_attention(q, k, v, axes, out=target.destination, return_lse=True, backend=backend)
    expected, expected_lse = axis_attention(q, k, v, axes, return_lse=True, backend=backend)
    assert returned is target.destination
    assert bitwise_equal(target.destination, expected) and bitwise_equal(lse, expected_lse)
    target.assert_written_exactly()


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("backend", BACKENDS)
def test_out_beside_its_inputs_in_one_buffer(backend, dtype):
    """The fourth slot of a packed (q, k, v, out) buffer is a valid destination."""
    buffer = torch.randn(1, 2, 3, 4, 4, 2, 16, dtype=torch.float64).to(dtype)
    before = buffer.clone()
    q, k, v, out = buffer.unbind(4)
    if not can_run("axis_attention", backend, q, k, v, "vn", out=out):
        return
    axis_attention(q, k, v, "vn", out=out, backend=backend)
    assert bitwise_equal(out, axis_attention(q, k, v, "vn", backend=backend))
    assert bitwise_equal(buffer[:, :, :, :, :3], before[:, :, :, :, :3])


@pytest.mark.parametrize("poisoned_input", ["k", "v"])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_outside_the_attended_set_does_not_leak(backend, axes, poisoned_input):
    """NaN in one token reaches exactly the tokens that attend to it; the others keep their bits."""
    q, k, v = random_qkv(1, 3, 4, 5, 1, 16)
    if not can_run("axis_attention", backend, q, k, v, axes):
        return
    clean, clean_lse = axis_attention(q, k, v, axes, return_lse=True, backend=backend)
    victim = {"k": k, "v": v}[poisoned_input]
    victim[0, 1, 2, 3] = float("nan")
    out, lse = axis_attention(q, k, v, axes, return_lse=True, backend=backend)
    reached = tokens_attending_to(axes, (1, 2, 3), (3, 4, 5))
    assert bitwise_equal(out[0, ~reached], clean[0, ~reached])
    assert bitwise_equal(lse[0, ~reached], clean_lse[0, ~reached])
    if poisoned_input == "v" or backend == "reference":
        assert out[0, reached].isnan().all()


@pytest.mark.parametrize("axes", ["vn", "tn", "vn|tn", "v|t", "n"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_frames_outside_the_attended_set_do_not_leak(backend, axes):
    """Every frame that the last frame does not attend to is NaN in k and v."""
    q, k, v = random_qkv(2, 3, 4, 7, 2, 16)
    if not can_run("axis_attention", backend, q, k, v, axes):
        return
    clean = axis_attention(q, k, v, axes, backend=backend)
    seen = torch.stack([tokens_attending_to(axes, (2, 3, token), (3, 4, 7)) for token in range(7)]).any(0)
    k[:, ~seen] = float("nan")
    v[:, ~seen] = float("nan")
    out = axis_attention(q, k, v, axes, backend=backend)
    assert bitwise_equal(out[:, 2, 3], clean[:, 2, 3])


def tokens_attending_to(axes, token, sizes):
    """``(V, T, N)`` bool; the relation is symmetric."""
    reached = torch.zeros(sizes, dtype=torch.bool)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in sizes)).tolist():
        for group in axes.split("|"):
            if all(a == b for a, b, letter in zip(index, token, "vtn", strict=True) if letter not in group):
                reached[tuple(index)] = True
    return reached


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("axes", ["vn", "vn|tn", "v|t"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_of_80(backend, axes, dtype):
    q, k, v = random_qkv(4, 3, 3, 7, 4, 16)
    q, k = (torch.nn.functional.normalize(x, dim=-1) * length for x, length in ((q, 8.0), (k, 10.0)))
    k[:, 0, 0, 0], k[:, 1, 1, 1] = 1.25 * q[:, 0, 0, 0], -1.25 * q[:, 0, 1, 0]
    check_forward(*(x.to(dtype) for x in (q, k, v)), axes, backend, scale=1.0)


@pytest.mark.parametrize("score", [0.0, 80.0, -80.0, 1e4])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("axes", ["vn", "vn|tn", "v|t", "n"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_rows(backend, axes, dtype, score):
    """Equal scores: every weight is 1 / keys, however large the log-sum-exp."""
    q, k, v = random_qkv(2, 3, 4, 7, 2, 16, dtype=dtype)
    k = torch.zeros_like(k)
    q[..., 0], k[..., 0] = 1, 1
    if not can_run("axis_attention", backend, q, k, v, axes, scale=score):
        return
    out, lse = axis_attention(q, k, v, axes, scale=score, return_lse=True, backend=backend)
    expected, expected_lse = dense_in_fp64(q, k, v, axes, score)
    plain, plain_lse = dense_attention(q, k, v, axes, score)
    merged = expected_lse.abs().max().item() if merges_by_lse(axes, backend) else 0.0
    assert_close_as_pytorch(out, expected, plain, lse_magnitude=merged)
    assert_close_as_pytorch(lse, expected_lse, plain_lse.to(lse.dtype))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_dominant_key(backend):
    """A query whose own frame holds all the weight: the union must not cancel it away."""
    q, k, v = random_qkv(1, 3, 4, 5, 1, 16)
    q[0, 1, 1, 2], k[0, 1, 1, 3] = 5.0, 5.0
    check_forward(q, k, v, "vn|tn", backend, scale=1.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_meanings_give_equal_bits(backend):
    q, k, v = random_qkv(1, 2, 3, 4, 2, 16)
    for canonical, spellings in {"vn": ("nv", "v|vn", "nv|n", "vn|vn"), "vn|tn": ("tn|vn", "nt|nv")}.items():
        if not can_run("axis_attention", backend, q, k, v, canonical):
            continue
        expected = axis_attention(q, k, v, canonical, backend=backend)
        for spelling in spellings:
            assert bitwise_equal(axis_attention(q, k, v, spelling, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_repeats_bitwise_and_deterministic_changes_nothing_it_returns(backend):
    q, k, v = random_qkv(2, 3, 2, 65, 2, 16)
    if not can_run("axis_attention", backend, q, k, v, "vn|tn", deterministic=True):
        return
    first = axis_attention(q, k, v, "vn|tn", backend=backend, deterministic=True)
    assert bitwise_equal(first, axis_attention(q, k, v, "vn|tn", backend=backend, deterministic=True))


def test_results_have_the_documented_types():
    q, k, v = random_qkv(1, 2, 2, 3, 2, 8, dtype=torch.bfloat16)
    out = axis_attention(q, k, v, "vn")
    assert isinstance(out, torch.Tensor) and out.shape == q.shape and out.dtype == torch.bfloat16
    _, lse = axis_attention(q, k, v, "vn", return_lse=True)
    assert lse.shape == q.shape[:5] and lse.dtype == torch.float32
    assert axis_attention(q.double(), k.double(), v.double(), "vn", return_lse=True)[1].dtype == torch.float64


def test_meta_tensors_give_shapes_without_memory():
    q = torch.empty(4, 8, 16, 1560, 24, 128, dtype=torch.bfloat16, device="meta")
    out, lse = axis_attention(q, q, q, "vn|tn", return_lse=True)
    assert out.device.type == "meta" and out.shape == q.shape and lse.shape == q.shape[:5]


def test_no_grad_and_inference_mode():
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 2, 2, 3, 2, 8))
    with torch.no_grad():
        assert not axis_attention(q, k, v, "vn").requires_grad
    with torch.inference_mode():
        assert axis_attention(q, k, v, "vn").is_inference()


def test_out_counts_as_a_mutation():
    """Autograd must notice that a tensor it saved was overwritten."""
    q, k, v = random_qkv(1, 2, 2, 3, 2, 8)
    out = torch.empty_like(q)
    before = out._version
    axis_attention(q, k, v, "vn", out=out)
    assert out._version > before
