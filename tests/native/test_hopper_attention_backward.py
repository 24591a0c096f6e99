"""The backward of the Hopper attention on the host, its instructions emulated; and on a GPU, where there is one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fourreal_kernels as fk
from attention_cases import dense_attention, random_qkv
from cuda_on_host import TARGETS
from fourreal_kernels import native
from fourreal_kernels.grid import parse_axes
from fourreal_kernels.ops.axis_attention import cuda_frames
from hopper_on_host import EAGER, LAZY, RANDOM, hopper_target, set_order, surrounded, wrong_with
from op_layouts import LAYOUTS
from op_numerics import assert_close_as_pytorch, bitwise_equal

# Tails of frames, tiles that end beyond the last frame, more tiles than blocks and more listed tiles than stages.
CASES = (("vn", (1, 1, 1, 1, 1, 64)), ("vn|tn", (1, 1, 1, 1, 1, 128)), ("tn", (2, 1, 3, 7, 2, 64)),
         ("vn", (2, 3, 1, 65, 1, 64)), ("vn|tn", (1, 3, 2, 65, 1, 128)), ("tn", (1, 2, 3, 100, 1, 128)),
         ("vn|tn", (1, 2, 3, 100, 1, 64)), ("vn", (1, 4, 1, 64, 2, 128)))


@pytest.fixture(params=TARGETS)
def device(request, monkeypatch) -> str:
    return hopper_target(request.param, monkeypatch)


def gradients(values: list[Tensor], axes: str, scale: float | None, grad: Tensor, grad_lse: Tensor) -> list[Tensor]:
    """out, lse and the gradients of q, k, v by plain PyTorch in the dtype of the values."""
    leaves = [x.detach().requires_grad_() for x in values]
    out, lse = dense_attention(*leaves, axes, scale)
    grads = torch.autograd.grad((out, lse), leaves, (grad.to(out.dtype), grad_lse.to(lse.dtype)))
    return [out.detach(), lse.detach(), *grads]


def check(axes: str, values: list[Tensor], scale: float | None = None) -> None:
    """Precision of dq, dk, dv, and that exactly they are written: from an out and lse that are as exact as they can."""
    q = values[0]
    grad = torch.randn(q.shape, device=q.device).to(q.dtype)
    grad_lse = torch.randn(q.shape[:5], device=q.device)
    exact = gradients([x.double() for x in values], axes, scale, grad, grad_lse)
    plain = gradients(values, axes, scale, grad, grad_lse)
    regions = [surrounded(tuple(q.shape), q.dtype, str(q.device)) for _ in range(3)]
    cuda_frames.backward(grad, grad_lse, *values, exact[0].to(q.dtype), exact[1].float(), parse_axes(axes),
                         q.shape[-1] ** -0.5 if scale is None else scale, tuple(inside for _, inside in regions))
    for (buffer, inside), wanted, eager in zip(regions, exact[2:], plain[2:], strict=True):
        assert_close_as_pytorch(inside, wanted, eager)
        assert buffer.isfinite().sum().item() == inside.numel()


@pytest.mark.parametrize("axes, shape", CASES, ids=lambda value: value if isinstance(value, str) else str(value))
def test_every_axis(device, axes, shape):
    set_order(device, RANDOM)
    check(axes, [x.to(device) for x in random_qkv(*shape, dtype=torch.bfloat16)])


@pytest.mark.parametrize("head_dim", (64, 128))
@pytest.mark.parametrize("axes", ("vn", "tn", "vn|tn"))
def test_float16(device, axes, head_dim):
    check(axes, [x.to(device) for x in random_qkv(1, 2, 2, 9, 1, head_dim, dtype=torch.float16)])


def attention_gradients(inputs: list[Tensor], grad: Tensor, axes: str = "vn|tn") -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(fk.axis_attention(*leaves, axes, backend="cuda"), leaves, grad)


@pytest.mark.parametrize("head_dim", (64, 128))
def test_order_of_threads_and_copies_changes_nothing(device, head_dim):
    """Also the same call again."""
    values = [x.to(device) for x in random_qkv(1, 1, 3, 100, 1, head_dim, dtype=torch.bfloat16)]
    grad = torch.randn(values[0].shape).to(values[0])
    results = []
    for order in (EAGER, EAGER, LAZY, RANDOM, RANDOM + 1):
        set_order(device, order)
        results.append(attention_gradients(values, grad, "tn"))
    for others in results[1:]:
        assert all(map(bitwise_equal, others, results[0]))


@pytest.mark.parametrize("layout", ("packed", "time_first", "heads_first", "stepped"))
def test_layouts_do_not_change_the_bits(device, layout):
    values = [x.to(device) for x in random_qkv(2, 2, 2, 9, 2, 64, dtype=torch.bfloat16)]
    grad = torch.randn(values[0].shape).to(values[0])
    strided = [LAYOUTS[layout](x) for x in (*values, grad)]
    assert all(map(bitwise_equal, attention_gradients(strided[:3], strided[3]), attention_gradients(values, grad)))


def test_rows_that_are_no_tokens_weigh_nothing(device):
    """Scores far below 0: exp(0 - lse) of a row of zeros would be infinite."""
    q, k, v = random_qkv(1, 2, 2, 7, 1, 64, dtype=torch.bfloat16)
    q[..., 0], k[..., 0] = 20, -20
    check("vn|tn", [x.to(device) for x in (q, k, v)], scale=1.0)


def test_large_scores_and_zero_scale(device):
    q, k, v = (x.to(device) for x in random_qkv(1, 2, 1, 40, 1, 64, dtype=torch.bfloat16))
    q[:, :, :, ::2] = 0
    q[:, :, :, 1::4] *= 40
    check("vn", [q, k, v], scale=0.5)
    dq, dk, dv = attention_gradients([q, k, v], torch.ones_like(q).contiguous(), "vn")
    assert all(x.isfinite().all() for x in (dq, dk, dv))
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    grad = torch.randn(q.shape).to(q)
    out = fk.axis_attention(*leaves, "vn", scale=0.0, backend="cuda")
    dq, dk, dv = torch.autograd.grad(out, leaves, grad)
    assert not dq.any() and not dk.any()
    mean = grad.double().mean((1, 3), keepdim=True).expand_as(dv)
    assert (dv.double() - mean).abs().max() < 0.01


def test_expanded_gradients_and_lse_alone(device):
    values = [x.to(device) for x in random_qkv(1, 2, 2, 9, 2, 64, dtype=torch.bfloat16)]
    dense = torch.ones(values[0].shape, dtype=torch.bfloat16, device=device)
    wanted = attention_gradients(values, dense)
    for grad in (dense[:1, :1, :1, :1, :1, :1].expand_as(dense), dense[:, :, :, :1].expand_as(dense)):
        assert all(map(bitwise_equal, attention_gradients(values, grad), wanted))
    leaves = [x.requires_grad_() for x in values]
    fk.axis_attention(*leaves, "tn", return_lse=True, backend="cuda")[1].sum().backward()
    nothing = torch.zeros_like(dense), torch.ones(dense.shape[:5], device=device)
    exact = gradients([x.detach().double() for x in values], "tn", None, *nothing)
    plain = gradients([x.detach() for x in values], "tn", None, *nothing)
    for leaf, of_fp64, eager in zip(leaves[:2], exact[2:], plain[2:], strict=False):
        assert_close_as_pytorch(leaf.grad, of_fp64, eager)
    assert not leaves[2].grad.any()


def test_two_streams(device):
    streams = [[x.to(device).requires_grad_() for x in random_qkv(1, 2, 1, 8, 1, 64, dtype=torch.bfloat16)]
               for _ in range(2)]
    grads = [torch.randn(streams[0][0].shape).to(streams[0][0]) for _ in range(2)]
    results = fk.two_stream_attention(*streams, backend="cuda")
    torch.autograd.backward(results, grads)
    for axes, leaves, grad in zip(("vn", "tn"), streams, grads, strict=True):
        wanted = attention_gradients(leaves, grad, axes)
        assert all(bitwise_equal(leaf.grad, x) for leaf, x in zip(leaves, wanted, strict=True))


def test_refusals(device):
    """What the forward refuses never comes here; the gradients' own tensors may be others."""
    q, k, v = (x.to(device) for x in random_qkv(1, 2, 2, 8, 2, 64, dtype=torch.bfloat16))
    lse = torch.zeros(q.shape[:5], device=device)
    call = parse_axes("vn"), 0.125
    with pytest.raises(NotImplementedError, match="cannot run .* over 'vn': .*aligned to 16 bytes"):
        cuda_frames.backward(q, None, q, k, v, q, lse, *call, (q, LAYOUTS["offset"](k), v))
    tensors = [(x.data_ptr(), x.stride()) for x in (q, lse, q, k, v, q, lse, q, k, v)]
    for axes, scratch, message in (("vt", 16, "axes 'vn', 'tn'"), ("vn", 8, "scratch: .*aligned to 16 bytes, got 8")):
        with pytest.raises(ValueError, match=message):
            native.cuda_library().frame_attention_backward("bfloat16", q.shape, axes, 0.125, tensors, scratch)


def test_never_chosen_unless_named(device):
    values = [x.to(device) for x in random_qkv(1, 2, 2, 8, 2, 64, dtype=torch.bfloat16)]
    explanation = fk.explain("axis_attention", *values, "vn")
    assert explanation.chosen != "cuda" and explanation.reasons["cuda"] == "can run; only when named"


FAULTS = {
    "a stage is freed before the sums have read it": (
        "hopper_attention_backward_kernel.cuh",
        "        wgmma_wait<1>(consumer.sums);\n        if (first > 0) release(last_stage);\n",
        "        if (first > 0) release(last_stage);\n        wgmma_wait<1>(consumer.sums);\n"),
    "a barrier does not expect the bytes of the statistics": (
        "hopper_attention_backward_kernel.cuh", "ring.parity ^ 1, Config::kStatisticsBytes);", "ring.parity ^ 1);"),
    "the statistics of rows beyond the last frame are not written": (
        "hopper_attention_statistics.cuh", "all = rows + QueryStatistics::kRowsOutside;", "all = rows;"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_emulation_notices(fault, tmp_path):
    assert wrong_with("backward", *FAULTS[fault], tmp_path)
