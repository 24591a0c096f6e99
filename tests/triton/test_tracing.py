"""The Triton backends behind PyTorch's operators: ``opcheck``, ``torch.compile`` and ``torch.export``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch.library import opcheck

import fourreal_kernels
from attention_cases import random_qkv
from exchange_formula import exchange_arguments, exchange_norm_arguments
from op_numerics import bitwise_equal
from operator_layer import Layer, streams
from rope_formula import norm_rope_arguments

OPS = torch.ops.fourreal_kernels
SHAPE = (1, 2, 2, 3, 1, 8)


@pytest.fixture(autouse=True)
def by_triton() -> Iterator[None]:
    with fourreal_kernels.use_backend("triton"):
        yield


def differentiable(*arguments) -> list:
    return [x.requires_grad_() if isinstance(x, torch.Tensor) else x for x in arguments]


def attention(axes: str) -> list:
    return [*differentiable(*random_qkv(*SHAPE)), axes, 0.3, False, "auto"]


def attention_backward() -> list:
    arguments = [x.detach() if isinstance(x, torch.Tensor) else x for x in attention("vn")]
    out, lse = OPS.axis_attention(*arguments)
    return [torch.randn(SHAPE), torch.randn_like(lse), *arguments[:3], out, lse, *arguments[3:]]


def two_stream() -> list:
    return [*differentiable(*random_qkv(*SHAPE), *random_qkv(*SHAPE)), 0.3, "auto"]


def exchange(kind: str, form: str) -> list:
    positional, keywords = exchange_arguments(SHAPE, kind, form, ("bias", "input_scale", "gate"))
    tensors = (*positional, keywords["input_scale"], keywords["gate"])
    return [*differentiable(*tensors), kind, "auto", True]


def exchange_norm() -> list:
    options = ("bias", "input_scale", "gate", "branch_gate")
    positional, keywords = exchange_norm_arguments(SHAPE, "soft", "per channel", options)
    names = ("input_scale", "gate", "branch_gate", "norm_scale", "norm_shift")
    return [*differentiable(*positional, *(keywords[name] for name in names)), "soft", 1e-6, "auto", True]


def rope() -> list:
    q, k, *weights, cos, sin = norm_rope_arguments(SHAPE, norm=True, rope=True, angle_shape=(2, 1, 4))
    return [*differentiable(q, k, *weights), cos, sin, 1e-6, "auto"]


CASES: dict[str, tuple[str, Callable[[], list]]] = {
    **{f"attention {axes}": ("axis_attention", lambda axes=axes: attention(axes)) for axes in ("vn|tn", "v")},
    "attention backward": ("axis_attention_backward", attention_backward),
    "two streams": ("two_stream_attention", two_stream),
    "exchange per channel": ("sync_exchange", lambda: exchange("hard", "per channel")),
    "exchange dense": ("sync_exchange", lambda: exchange("soft", "dense")),
    "exchange and norm": ("sync_exchange_norm", exchange_norm),
    "norm and rope": ("qk_norm_rope", rope),
}


@pytest.mark.parametrize("case", CASES)
def test_opcheck(case: str):
    operator, arguments = CASES[case]
    opcheck(getattr(OPS, operator).default, arguments())


def test_export_and_compile_leave_the_operators_whole():
    layer, inputs = Layer(), streams(1)
    wanted = layer(*inputs)
    exported = torch.export.export(layer, inputs).module()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for run in (exported, compiled):
        assert all(bitwise_equal(*pair) for pair in zip(run(*inputs), wanted, strict=True))
