"""The Hopper attention kernel on the host, its instructions emulated; and on a GPU, where there is one.

The emulation follows the PTX ISA: what it cannot show is what the hardware does otherwise.
"""

from __future__ import annotations

import json
import math
import subprocess

import pytest
import torch
from torch import Tensor

import fourreal_kernels as fk
from attention_cases import dense_attention, dense_in_fp64, random_qkv
from cuda_on_host import TARGETS
from hopper_on_host import (
    EAGER,
    LAZY,
    RANDOM,
    hopper_target,
    microtests,
    set_order,
    surrounded,
    wrong_with,
)
from op_layouts import LAYOUTS
from op_numerics import assert_close_as_pytorch, bitwise_equal, dtype_name

AXES = ("vn", "tn", "vn|tn")
# The last two have more keys than two stages hold, in tiles of 128 and 192; tails of frames, more tiles than blocks.
SHAPES = ((1, 1, 1, 1, 1, 64), (1, 2, 3, 8, 2, 128), (1, 3, 2, 64, 1, 128), (2, 1, 4, 40, 1, 64), (1, 3, 1, 65, 2, 128),
          (1, 3, 5, 100, 1, 64), (1, 8, 1, 120, 1, 128))


@pytest.fixture(params=TARGETS)
def device(request, monkeypatch) -> str:
    return hopper_target(request.param, monkeypatch)


def check(axes: str, inputs: list[Tensor], values: list[Tensor], scale: float | None = None) -> None:
    """Precision of out and lse, and that exactly the destination is written."""
    q = values[0]
    buffer, out = surrounded(tuple(q.shape), q.dtype, str(q.device))
    _, lse = fk.axis_attention(*inputs, axes, scale=scale, return_lse=True, out=out, backend="cuda")
    exact, exact_lse = dense_in_fp64(*values, axes, scale)
    plain, _ = dense_attention(*values, axes, scale)
    assert_close_as_pytorch(out, exact, plain)
    assert (lse - exact_lse).abs().max().item() < 1e-4 * max(1.0, exact_lse.abs().max().item())
    assert buffer.isfinite().sum().item() == out.numel()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("axes", AXES)
def test_every_axis(device, axes, shape):
    values = random_qkv(*shape, dtype=torch.bfloat16)
    values = [x.to(device) for x in values]
    set_order(device, RANDOM)
    check(axes, values, values)


@pytest.mark.parametrize("head_dim", (64, 128))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=dtype_name)
def test_dtypes_and_head_dims(device, dtype, head_dim):
    values = [x.to(device) for x in random_qkv(1, 2, 2, 72, 2, head_dim, dtype=dtype)]
    check("vn|tn", values, values)


def test_order_of_threads_and_copies_changes_nothing(device):
    values = [x.to(device) for x in random_qkv(1, 3, 2, 100, 1, 64, dtype=torch.bfloat16)]
    results = []
    for order in (EAGER, LAZY, RANDOM, RANDOM + 1, RANDOM + 2):
        set_order(device, order)
        results.append(fk.axis_attention(*values, "vn|tn", return_lse=True, backend="cuda"))
    for out, lse in results[1:]:
        assert bitwise_equal(out, results[0][0]) and bitwise_equal(lse, results[0][1])


def test_two_streams_in_one_launch(device):
    shape = (1, 3, 2, 72, 2, 64)
    streams = [[x.to(device) for x in random_qkv(*shape, dtype=torch.bfloat16)] for _ in range(2)]
    set_order(device, RANDOM)
    got = fk.two_stream_attention(*streams, backend="cuda")
    for axes, values, out in zip(("vn", "tn"), streams, got, strict=True):
        exact, _ = dense_in_fp64(*values, axes)
        plain, _ = dense_attention(*values, axes)
        assert_close_as_pytorch(out, exact, plain)


@pytest.mark.parametrize("batch", (1, 2))
@pytest.mark.parametrize("layout", ("packed", "time_first", "heads_first", "stepped"))
def test_layouts(device, layout, batch):
    values = [x.to(device) for x in random_qkv(batch, 2, 3, 24, 2, 64, dtype=torch.bfloat16)]
    check("vn|tn", [LAYOUTS[layout](x) for x in values], values)


def test_large_scores_constant_rows_and_zero_scale(device):
    q, k, v = (x.to(device) for x in random_qkv(1, 2, 2, 64, 1, 64, dtype=torch.bfloat16))
    q[:, :, :, ::2] = 0
    q[:, :, :, 1::4] *= 80
    k[:, :, :, 3] *= 10
    check("vn|tn", [q, k, v], [q, k, v], scale=0.5)
    out, lse = fk.axis_attention(q, k, v, "vn", scale=0.0, return_lse=True, backend="cuda")
    mean = v.double().mean((1, 3), keepdim=True).expand_as(v)
    assert (out.double() - mean).abs().max() < 0.01 and (lse - math.log(128)).abs().max() < 1e-4


def test_refusals(device):
    q, k, v = (x.to(device) for x in random_qkv(2, 2, 2, 8, 2, 64, dtype=torch.bfloat16))
    for change, reason in (("offset", "aligned to 16 bytes"), ("sliced", "aligned to 16|multiples of 16")):
        with pytest.raises(NotImplementedError, match=reason):
            fk.axis_attention(q, LAYOUTS[change](k), v, "vn", backend="cuda")
    with pytest.raises(NotImplementedError, match="positive multiples of 16 bytes"):
        fk.axis_attention(q, k, v[:, :1].expand_as(v), "tn", backend="cuda")
    with pytest.raises(NotImplementedError, match="scales of at least 0"):
        fk.axis_attention(q, k, v, "vn", scale=-1.0, backend="cuda")
    with pytest.raises(NotImplementedError, match="head dims 64 and 128, got 32"):
        fk.axis_attention(q[..., :32], k[..., :32], v[..., :32], "vn", backend="cuda")
    with pytest.raises(NotImplementedError, match="float16 and bfloat16, the call is float32"):
        fk.axis_attention(q.float(), k.float(), v.float(), "vn|tn", backend="cuda")


def test_primitives():
    done = subprocess.run([str(microtests())], capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 12 and all(line["status"] == "ok" for line in lines), done.stdout + done.stderr


# What the first run on a GPU could find, put into the source: the emulation has to notice each.
FAULTS = {
    "boxes are read before the writes to shared memory are visible": (
        "hopper_attention_kernel.cuh", "    fence_shared_writes();\n", ""),
    "the offsets of the MN-major descriptor are exchanged": (
        "hopper_layout.hpp", "matrix_descriptor(tile, panel_bytes, kSwizzleBytes)",
        "matrix_descriptor(tile, kSwizzleBytes, panel_bytes)"),
    "values are released before the product has read them": (
        "hopper_attention_kernel.cuh",
        "        wgmma_wait<0>(consumer.outputs);\n        release(Config::kValueEmpty, last.stage);",
        "        release(Config::kValueEmpty, last.stage);\n        wgmma_wait<0>(consumer.outputs);"),
    "a barrier waits for more warps than arrive": (
        "hopper_attention_kernel.cuh", "kValueEmpty + 8 * stage, Config::kConsumers * 4)",
        "kValueEmpty + 8 * stage, Config::kConsumers * 4 + 1)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_emulation_notices(fault, tmp_path):
    assert wrong_with("forward", *FAULTS[fault], tmp_path)
