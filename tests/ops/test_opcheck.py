"""``torch.library.opcheck`` for every operator of the namespace, on dense and strided inputs, with and without grad."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

import fourreal_kernels  # noqa: F401  (defines the operators)
from attention_cases import random_qkv
from exchange_formula import exchange_arguments, exchange_norm_arguments
from op_layouts import LAYOUTS
from rope_formula import norm_rope_arguments

OPS = torch.ops.fourreal_kernels
SHAPE = (2, 2, 3, 4, 2, 8)


def attention(axes="vn|tn", backend="auto", layout="contiguous", grad=True):
    qkv = [LAYOUTS[layout](x).requires_grad_(grad) for x in random_qkv(*SHAPE)]
    return (*qkv, axes, 0.3, False, backend)


def attention_out(layout, with_lse):
    return (*attention(grad=False), *outputs(layout, with_lse))


def outputs(layout, with_lse):
    return LAYOUTS[layout](torch.zeros(SHAPE)), torch.zeros(SHAPE[:-1]) if with_lse else None


def attention_backward(backend, layout, with_lse):
    arguments = attention(backend=backend, layout=layout, grad=False)
    out, lse = OPS.axis_attention(*arguments)
    grad_lse = torch.randn_like(lse) if with_lse else None
    return (torch.randn(SHAPE), grad_lse, *arguments[:3], out, lse, *arguments[3:])


def extra_tokens(*args, **options):
    q, k, v, *others = attention(*args, **options)
    extra = [torch.randn(SHAPE[0], 5, *SHAPE[4:], requires_grad=options.get("grad", True)) for _ in range(2)]
    return (q, k, v, *extra, *others)


def extra_tokens_out(layout, with_lse):
    return (*extra_tokens(grad=False), *outputs(layout, with_lse))


def extra_tokens_backward(backend, layout, with_lse):
    arguments = extra_tokens(backend=backend, layout=layout, grad=False)
    out, lse = OPS.axis_attention_extra(*arguments)
    grad_lse = torch.randn_like(lse) if with_lse else None
    return (torch.randn(SHAPE), grad_lse, *arguments[:5], out, lse, *arguments[5:])


def two_stream():
    return (*attention()[:3], *attention(layout="packed")[:3], 0.3, "auto")


def merge():
    outs = [x.requires_grad_() for x in random_qkv(*SHAPE)]
    return (outs, [torch.randn(SHAPE[:-1]).requires_grad_(index > 0) for index in range(3)])


def exchange(kind="soft", form="dense", grad=True, all_options=True, layout="contiguous"):
    options = ("bias", "input_scale", "gate") if all_options else ()
    (view, time, *parameters), keywords = exchange_arguments(SHAPE, kind, form, options)
    tensors = (LAYOUTS[layout](view), time, *parameters, keywords["input_scale"], keywords["gate"])
    return (*(None if x is None else x.requires_grad_(grad) for x in tensors), kind, "auto")


def exchange_forward(*args, **options):
    return (*exchange(*args, **options), options.get("grad", True))


def exchange_backward(**options):
    return (torch.randn(SHAPE), torch.randn(SHAPE), *exchange(grad=False, **options))


def exchange_norm(kind="soft", form="dense", grad=True, all_options=True, layout="contiguous"):
    options = ("bias", "input_scale", "gate", "branch_gate") if all_options else ()
    (view, time, *others), keywords = exchange_norm_arguments(SHAPE, kind, form, options)
    names = ("input_scale", "gate", "branch_gate", "norm_scale", "norm_shift")
    tensors = (LAYOUTS[layout](view), time, *others, *(keywords[name] for name in names))
    return (*(None if x is None else x.requires_grad_(grad) for x in tensors), kind, 1e-6, "auto")


def exchange_norm_forward(*args, **options):
    return (*exchange_norm(*args, **options), options.get("grad", True))


def exchange_norm_backward(**options):
    return (*(torch.randn(SHAPE) for _ in range(4)), *exchange_norm(grad=False, **options))


def rope(grad=True, norm=True, rotate=True, layout="contiguous"):
    q, k, *weights, cos, sin = norm_rope_arguments(SHAPE, norm=norm, rope=rotate, angle_shape=(3, 1, 4))
    tensors = (LAYOUTS[layout](q), k, *weights)
    return (*(None if x is None else x.requires_grad_(grad) for x in tensors), cos, sin, 1e-6, "auto")


def rope_backward(**options):
    return (torch.randn(SHAPE), torch.randn(SHAPE), *rope(grad=False, **options))


CASES = {
    "axis_attention": [
        lambda: attention(), lambda: attention(backend="reference"), lambda: attention("v|t", "sdpa", "packed"),
        lambda: attention("n", "auto", "time_first"), lambda: attention("vn", "reference", "sliced", grad=False),
    ],
    "axis_attention_out": [lambda: attention_out("contiguous", False), lambda: attention_out("time_first", True)],
    "axis_attention_backward": [
        lambda: attention_backward("sdpa", "contiguous", True), lambda: attention_backward("sdpa", "packed", False),
        lambda: attention_backward("reference", "time_first", True),
    ],
    "axis_attention_extra": [
        lambda: extra_tokens(), lambda: extra_tokens(backend="reference"),
        lambda: extra_tokens("v|t", "sdpa", "packed"),
    ],
    "axis_attention_extra_out": [
        lambda: extra_tokens_out("contiguous", False), lambda: extra_tokens_out("time_first", True)
    ],
    "axis_attention_extra_backward": [
        lambda: extra_tokens_backward("sdpa", "packed", True),
        lambda: extra_tokens_backward("cpu", "time_first", False),
        lambda: extra_tokens_backward("reference", "contiguous", True),
    ],
    "two_stream_attention": [two_stream],
    "merge_attention": [merge],
    "sync_exchange": [
        lambda: exchange_forward(), lambda: exchange_forward("hard", "per channel", all_options=False, layout="packed"),
        lambda: exchange_forward("hard", layout="time_first"),
        lambda: exchange_forward("hard", "per channel", grad=False),
    ],
    "sync_exchange_": [
        lambda: exchange(grad=False), lambda: exchange("hard", "per channel", grad=False, layout="offset"),
    ],
    "sync_exchange_backward": [
        lambda: exchange_backward(), lambda: exchange_backward(kind="hard", all_options=False, layout="time_first"),
    ],
    "sync_exchange_norm": [
        lambda: exchange_norm_forward(), lambda: exchange_norm_forward("hard", all_options=False, layout="packed"),
        lambda: exchange_norm_forward("soft", "per channel", grad=False, layout="time_first"),
    ],
    "sync_exchange_norm_": [
        lambda: exchange_norm(grad=False), lambda: exchange_norm("hard", "per channel", grad=False, layout="offset"),
    ],
    "sync_exchange_norm_backward": [
        lambda: exchange_norm_backward(), lambda: exchange_norm_backward(kind="hard", all_options=False),
    ],
    "qk_norm_rope": [
        lambda: rope(), lambda: rope(norm=False, layout="packed"), lambda: rope(rotate=False, layout="time_first"),
    ],
    "qk_norm_rope_": [lambda: rope(grad=False), lambda: rope(grad=False, norm=False, layout="heads_first")],
    "qk_norm_rope_backward": [lambda: rope_backward(), lambda: rope_backward(norm=False, layout="packed")],
}


def test_every_operator_of_the_namespace_is_here():
    names = [name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if "fourreal_kernels::" in name]
    assert sorted(names) == sorted(CASES)


@pytest.mark.parametrize("name, case", [(name, i) for name, cases in CASES.items() for i in range(len(cases))])
def test_opcheck(name, case):
    results = opcheck(getattr(OPS, name).default, CASES[name][case]())
    assert set(results.values()) == {"SUCCESS"}
