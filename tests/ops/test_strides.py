"""Fake kernels give exactly the shapes, dtypes and strides of the real ones; out is laid out like its input."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from attention_cases import random_qkv
from exchange_formula import KINDS, exchange_arguments
from op_layouts import LAYOUTS
from rope_formula import norm_rope_arguments

OPS = torch.ops.fourreal_kernels
SHAPE = (2, 2, 3, 5, 2, 8)
MORE_LAYOUTS = {
    **LAYOUTS,
    "expanded heads": lambda x: x[:, :, :, :, :1].expand_as(x),
    "expanded views": lambda x: x[:, :1].expand_as(x),
    "size one dims": lambda x: x[:1, :, :1, :, :1],
}


def metadata(results):
    """Shape, dtype, device and strides of each result."""
    results = (results,) if isinstance(results, torch.Tensor) else results or ()
    return [(tuple(x.shape), x.dtype, x.device.type, strides(x)) for x in results]


def strides(x):
    """None for dims of size one, whose strides PyTorch itself fakes differently and nothing reads."""
    return [stride if size > 1 else None for stride, size in zip(x.stride(), x.shape, strict=True)]


def fake(value, mode):
    if isinstance(value, list):
        return [fake(x, mode) for x in value]
    return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value


def check_fake(op, *arguments):
    """Results of the real kernel, after the fake kernel described them."""
    with FakeTensorMode() as mode:
        described = metadata(op(*(fake(x, mode) for x in arguments)))
    results = op(*arguments)
    assert described == metadata(results)
    return results


def like(x):
    return strides(torch.empty_like(x))


@pytest.mark.parametrize("layout", MORE_LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("axes", ["vn", "vn|tn"])
def test_axis_attention(axes, backend, dtype, layout):
    qkv = [MORE_LAYOUTS[layout](x) for x in random_qkv(*SHAPE, dtype=dtype)]
    options = (axes, 0.3, False, backend)
    out, lse = check_fake(OPS.axis_attention, *qkv, *options)
    assert strides(out) == like(qkv[0]) and lse.is_contiguous()
    grads = check_fake(OPS.axis_attention_backward, out, None, *qkv, out, lse, *options)
    assert [strides(x) for x in grads] == [like(x) for x in qkv]
    check_fake(OPS.axis_attention_backward, out, lse, *qkv, out, lse, *options)


@pytest.mark.parametrize("layout", MORE_LAYOUTS)
def test_two_stream_attention(layout):
    tensors = [MORE_LAYOUTS[layout](x) for x in random_qkv(*SHAPE)]
    others = [LAYOUTS["time_first"](x) for x in tensors]
    results = check_fake(OPS.two_stream_attention, *tensors, *others, 0.3, "auto")
    assert strides(results[0]) == like(tensors[0]) and strides(results[2]) == like(others[0])


@pytest.mark.parametrize("layout", MORE_LAYOUTS)
def test_merge_attention(layout):
    outs = [MORE_LAYOUTS[layout](x) for x in random_qkv(*SHAPE)]
    check_fake(OPS.merge_attention, outs, [torch.randn(x.shape[:-1]) for x in outs])


@pytest.mark.parametrize("layout", MORE_LAYOUTS)
@pytest.mark.parametrize("options", [(), ("bias", "input_scale", "gate")], ids=["no options", "all options"])
@pytest.mark.parametrize("kind", KINDS)
def test_sync_exchange(kind, options, layout):
    (view, time, weight, bias), keywords = exchange_arguments(SHAPE, kind, "dense", options)
    view, time = MORE_LAYOUTS[layout](view), MORE_LAYOUTS[layout](time).contiguous()
    batch = view.shape[0]
    scale, gate = (None if x is None else x[:batch] for x in (keywords["input_scale"], keywords["gate"]))
    arguments = (view, time, weight.T.contiguous().T, bias, scale, gate, kind, "auto")
    results = check_fake(OPS.sync_exchange, *arguments, False)
    assert [strides(x) for x in results] == [like(view), like(time)]
    grads = check_fake(OPS.sync_exchange_backward, *results, *arguments)
    assert strides(grads[0]) == like(view) and strides(grads[2]) == like(arguments[2])


@pytest.mark.parametrize("kind", KINDS)
def test_sync_exchange_in_place_returns_nothing(kind):
    (view, time, *parameters), keywords = exchange_arguments(SHAPE, kind, "dense")
    arguments = (*parameters, keywords["input_scale"], keywords["gate"], kind, "auto")
    assert check_fake(OPS.sync_exchange_, view, time, *arguments) is None


@pytest.mark.parametrize("layout", MORE_LAYOUTS)
@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)], ids=str)
def test_qk_norm_rope(parts, layout):
    q, k, *rest = norm_rope_arguments(SHAPE, norm=parts[0], rope=parts[1], angle_shape=(4,))
    q, k = MORE_LAYOUTS[layout](q), MORE_LAYOUTS[layout](k).contiguous()
    results = check_fake(OPS.qk_norm_rope, q, k, *rest, 1e-6, "auto")
    assert [strides(x) for x in results] == [like(q), like(k)]
    grads = check_fake(OPS.qk_norm_rope_backward, *results, q, k, *rest, 1e-6, "auto")
    assert [strides(x) for x in grads[:2]] == [like(q), like(k)]
    assert check_fake(OPS.qk_norm_rope_, q.clone(), k.clone(), *rest, 1e-6, "auto") is None
