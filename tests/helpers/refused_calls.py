"""Calls that the operators refuse: what is wrong, the exception, the argument it names and part of its message."""

from __future__ import annotations

import torch

from attention_cases import random_qkv
from rope_formula import norm_rope_arguments

SHAPE = (2, 2, 3, 4, 2, 8)
STREAM = (2, 2, 3, 4, 8)


def attention_base():
    q, k, v = random_qkv(*SHAPE)
    return {"q": q, "k": k, "v": v, "axes": "vn"}


def two_stream_base():
    return {"view_qkv": tuple(random_qkv(*SHAPE)), "time_qkv": tuple(random_qkv(*SHAPE))}


def merge_base():
    return {"outs": random_qkv(*SHAPE)[:2], "lses": [torch.randn(SHAPE[:-1]) for _ in range(2)]}


def exchange_base():
    return {"view": torch.randn(STREAM), "time": torch.randn(STREAM), "weight": torch.randn(8, 16), "kind": "hard",
            "bias": torch.randn(8), "input_scale": torch.randn(2, 16), "gate": torch.randn(2, 8)}


def exchange_norm_base():
    return {**exchange_base(), "view_branch": torch.randn(STREAM), "time_branch": torch.randn(STREAM),
            "branch_gate": torch.randn(2, 16), "norm_scale": torch.randn(2, 16), "norm_shift": torch.randn(2, 16)}


def rope_base():
    return dict(zip(("q", "k", "q_weight", "k_weight", "cos", "sin"), norm_rope_arguments(SHAPE), strict=True))


BASES = {
    "axis_attention": attention_base, "two_stream_attention": two_stream_base, "merge_attention": merge_base,
    "sync_exchange": exchange_base, "sync_exchange_": exchange_base,
    "sync_exchange_norm": exchange_norm_base, "sync_exchange_norm_": exchange_norm_base,
    "qk_norm_rope": rope_base, "qk_norm_rope_": rope_base,
}


def strided(x):
    """The same values with a last dim that is not contiguous."""
    return torch.stack([x, x], dim=-1)[..., 0]


def replaced(name, change):
    """A change of one argument by a function of its valid value."""
    return lambda arguments: {**arguments, name: change(arguments[name])}


def given(**new):
    return lambda arguments: {**arguments, **new}


def of_triple(name, index, change):
    """A change of one tensor of a (q, k, v) triple or of a list."""
    def apply(arguments):
        items = list(arguments[name])
        items[index] = change(items[index])
        return {**arguments, name: items}

    return apply


WRONG_GRIDS = {
    "not a tensor": (lambda x: x.tolist(), TypeError, "expected a torch.Tensor, got list"),
    "None": (lambda x: None, TypeError, "expected a torch.Tensor, got NoneType"),
    "five dims": (lambda x: x[0], ValueError, "got 5 dims with shape (2, 3, 4, 2, 8), expected 6"),
    "seven dims": (lambda x: x[None], ValueError, "got 7 dims"),
    "integers": (lambda x: x.long(), TypeError, "got dtype torch.int64"),
    "booleans": (lambda x: x > 0, TypeError, "got dtype torch.bool"),
    "complex": (lambda x: x.to(torch.complex64), TypeError, "got dtype torch.complex64"),
    "empty": (lambda x: x[:, :, :0], ValueError, "expected every size to be at least 1"),
    "last dim not contiguous": (strided, ValueError, "the last dim must be contiguous, got strides"),
    "last dim expanded": (lambda x: x[..., :1].expand_as(x), ValueError, "the last dim must be contiguous"),
}
UNLIKE = {
    "other shape": (lambda x: x[:, :, :, :-1].contiguous(), ValueError, "expected (2, 2, 3, 4, 2, 8) as "),
    "other batch": (lambda x: x[:1], ValueError, "got shape (1, 2, 3, 4, 2, 8)"),
    "other dtype": (lambda x: x.double(), TypeError, "got dtype torch.float64, expected torch.float32 as "),
    "half precision": (lambda x: x.half(), TypeError, "got dtype torch.float16"),
    "other device": (lambda x: x.to("meta"), ValueError, "got device meta, expected cpu as "),
}
WRONG_STREAMS = {
    "not a tensor": (lambda x: 3.0, TypeError, "expected a torch.Tensor, got float"),
    "one dim": (lambda x: x[0, 0, 0, 0], ValueError, "expected (B, ..., C) with at least 2 dims"),
    "integers": (lambda x: x.int(), TypeError, "got dtype torch.int32"),
    "empty": (lambda x: x[:0], ValueError, "expected every size to be at least 1"),
    "last dim not contiguous": (strided, ValueError, "the last dim must be contiguous"),
}
WRONG_BACKENDS = {
    "unknown": ("flash", ValueError, "got 'flash', expected one of reference, sdpa, cpu, triton, cuda"),
    "upper case": ("SDPA", ValueError, "got 'SDPA'"),
    "empty": ("", ValueError, "got ''"),
    "number": (3, TypeError, "expected a string or None, got int"),
    "cuda for a cpu tensor": ("cuda", NotImplementedError, "'cuda' cannot run this"),
}


def table():
    """``(op, what, change, exception, argument, text)`` for every refused call."""
    for op in ("axis_attention", "qk_norm_rope", "qk_norm_rope_"):
        for name in ("q", "k", "v")[: 3 if op == "axis_attention" else 2]:
            for what, (change, error, text) in WRONG_GRIDS.items():
                yield op, f"{name} {what}", replaced(name, change), error, name, text
            for what, (change, error, text) in UNLIKE.items() if name != "q" else ():
                yield op, f"{name} {what}", replaced(name, change), error, name, text
    yield from attention_table()
    yield from two_stream_table()
    yield from merge_table()
    for op in ("sync_exchange", "sync_exchange_"):
        yield from exchange_table(op)
    for op in ("sync_exchange_norm", "sync_exchange_norm_"):
        yield from exchange_table(op)
        yield from exchange_norm_table(op)
    for op in ("qk_norm_rope", "qk_norm_rope_"):
        yield from rope_table(op)
    for op in BASES:
        for what, (backend, error, text) in WRONG_BACKENDS.items() if op != "merge_attention" else ():
            yield op, f"backend {what}", given(backend=backend), error, "backend", text


def attention_table():
    op = "axis_attention"
    for axes in ("", "|", "vn|", "vv", "x", "VN", " vn", "v,n", "v|t|n", "view"):
        yield op, f"axes {axes!r}", given(axes=axes), ValueError, "axes", f"got {axes!r}"
    for axes in (None, 3, ["v", "n"], b"vn"):
        yield op, f"axes {axes!r}", given(axes=axes), TypeError, "axes", "expected a string"
    for what, value in {"string": "0.5", "bool": True, "tensor": torch.ones(()), "complex": 1j}.items():
        yield op, f"scale {what}", given(scale=value), TypeError, "scale", "expected a number or None"
    yield op, "deterministic", given(deterministic="no"), TypeError, "deterministic", "got str, expected True or False"
    for value in (float("nan"), float("inf"), -float("inf")):
        yield op, f"scale {value}", given(scale=value), ValueError, "scale", f"got {value}, expected a finite number"
    for what, (change, error, text) in {**WRONG_GRIDS, **UNLIKE}.items():
        if what == "None":
            continue
        text = text.replace("[2, 2, 3, 4, 2, 8]", "")
        yield op, f"out {what}", (lambda a, c=change: {**a, "out": c(torch.zeros(SHAPE))}), error, "out", text
    yield (op, "out expanded", (lambda a: {**a, "out": torch.zeros(2, 2, 3, 1, 2, 8).expand(SHAPE)}), ValueError,
           "out", "its elements overlap one another")
    for name in ("q", "k", "v"):
        yield (op, f"out is {name}", (lambda a, n=name: {**a, "out": a[n]}), ValueError, "out",
               f"shares memory with {name}")
    yield op, "out overlaps part of k", overlapping_out, ValueError, "out", "shares memory with k"
    for name in ("q", "k", "v"):
        yield (op, f"out and {name} requires grad", (lambda a, n=name: {**a, "out": torch.zeros(SHAPE),
               n: a[n].requires_grad_()}), ValueError, name, "requires grad, but axis_attention(out=...)")
    yield (op, "out requires grad", (lambda a: {**a, "out": torch.zeros(SHAPE, requires_grad=True)}), ValueError,
           "out", "requires grad")


def overlapping_out(arguments):
    buffer = torch.randn(2, 2, 3, 5, 2, 8)
    return {**arguments, "k": buffer[:, :, :, :4], "out": buffer[:, :, :, 1:]}


def two_stream_table():
    op = "two_stream_attention"
    for name in ("view_qkv", "time_qkv"):
        yield op, f"{name} None", given(**{name: None}), TypeError, name, "got NoneType, expected a tuple or list"
        yield op, f"{name} tensor", given(**{name: torch.zeros(3, *SHAPE)}), TypeError, name, "got Tensor"
        yield op, f"{name} two", replaced(name, lambda x: x[:2]), ValueError, name, "got 2 items, expected three"
        for index, letter in enumerate("qkv"):
            for what, (change, error, text) in WRONG_GRIDS.items():
                yield op, f"{name} {letter} {what}", of_triple(name, index, change), error, f"{name}.{letter}", text
        for what, (change, error, text) in UNLIKE.items():
            yield op, f"{name} v {what}", of_triple(name, 2, change), error, f"{name}.v", text
    for what, (change, error, text) in UNLIKE.items():
        every = replaced("time_qkv", lambda items, c=change: [c(x) for x in items])
        yield op, f"time stream {what}", every, error, "time_qkv.q", text
    yield op, "scale", given(scale="1"), TypeError, "scale", "expected a number or None"
    yield op, "scale nan", given(scale=float("nan")), ValueError, "scale", "expected a finite number"


def merge_table():
    op = "merge_attention"
    yield op, "outs None", given(outs=None), TypeError, "outs", "expected a list or tuple of tensors, got NoneType"
    yield op, "outs tensor", given(outs=torch.zeros(SHAPE)), TypeError, "outs", "got Tensor"
    yield op, "lses dict", given(lses={}), TypeError, "lses", "got dict"
    yield op, "nothing", given(outs=[], lses=[]), ValueError, "outs, lses", "got 0 outs and 0 lses"
    yield op, "counts", replaced("lses", lambda x: x[:1]), ValueError, "outs, lses", "got 2 outs and 1 lses"
    for what, (change, error, text) in {
        "number": (lambda x: 3, TypeError, "expected a torch.Tensor"),
        "integers": (lambda x: x.long(), TypeError, "got dtype torch.int64"),
        "dtype": (lambda x: x.double(), TypeError, "got dtype torch.float64"),
        "device": (lambda x: x.to("meta"), ValueError, "got device meta"),
        "shape": (lambda x: x[:1], ValueError, "got shape (1, 2, 3, 4, 2"),
    }.items():
        for name in ("outs", "lses"):
            yield op, f"{name} {what}", of_triple(name, 1, change), error, f"{name}[1]", text
    yield op, "first lse half", of_triple("lses", 0, torch.Tensor.half), TypeError, "lses[0]", "expected torch.float32"


def exchange_table(op):
    for name in ("view", "time"):
        for what, (change, error, text) in WRONG_STREAMS.items():
            yield op, f"{name} {what}", replaced(name, change), error, name, text
    for what, (change, error, text) in {
        "shape": (lambda x: x[:, :, :, :3], ValueError, "expected (2, 2, 3, 4, 8) as view"),
        "rank": (lambda x: x.flatten(1, 2), ValueError, "as view"),
        "dtype": (lambda x: x.bfloat16(), TypeError, "expected torch.float32 as view"),
        "device": (lambda x: x.to("meta"), ValueError, "got device meta, expected cpu as view"),
    }.items():
        yield op, f"time {what}", replaced("time", change), error, "time", text
    for kind in ("Hard", "", "average"):
        yield op, f"kind {kind!r}", given(kind=kind), ValueError, "kind", f"got {kind!r}"
    for kind in (None, 1):
        yield op, f"kind {kind!r}", given(kind=kind), TypeError, "kind", "expected 'hard' or 'soft'"
    yield op, "weight None", given(weight=None), TypeError, "weight", "expected a torch.Tensor"
    for shape in ((8, 8), (16, 8), (8, 17), (2, 9), (2, 2, 8), (16, 16), (8,), ()):
        yield (op, f"weight {shape}", given(weight=torch.zeros(shape)), ValueError, "weight",
               f"got shape {shape}, expected (8, 16) (dense) or (2, 8) (per channel) for kind='hard' and C=8")
    for shape in ((8, 16), (2, 8), (16, 8), (2, 2, 9)):
        change = given(weight=torch.zeros(shape), kind="soft", bias=None, gate=None)
        yield op, f"soft weight {shape}", change, ValueError, "weight", "expected (16, 16) (dense) or (2, 2, 8)"
    for name, shape in {"bias": (8,), "input_scale": (2, 16), "gate": (2, 8)}.items():
        for wrong in ((9,), (1, 8), (2, 2, 8), ()):
            text = f"got shape {wrong}, expected {shape} for kind='hard'"
            yield op, f"{name} {wrong}", given(**{name: torch.zeros(wrong)}), ValueError, name, text
    for name in ("weight", "bias", "input_scale", "gate"):
        yield op, f"{name} dtype", replaced(name, torch.Tensor.double), TypeError, name, "as view"
        yield op, f"{name} device", replaced(name, lambda x: x.to("meta")), ValueError, name, "got device meta"
        yield op, f"{name} number", given(**{name: 2.0}), TypeError, name, "expected a torch.Tensor, got float"
    if op.endswith("_"):
        yield from exchange_in_place_table(op)


def exchange_in_place_table(op):
    for name in ("view", "time", "weight", "bias", "input_scale", "gate"):
        yield (op, f"{name} requires grad", replaced(name, lambda x: x.requires_grad_()), ValueError, name,
               f"requires grad, but {op} writes in place and has no gradient; call {op[:-1]}")
    yield op, "one buffer", (lambda a: {**a, "time": a["view"]}), ValueError, "view", "shares memory with time"
    yield op, "shifted buffers", shifted_streams, ValueError, "view", "shares memory with time"
    for name in ("view", "time"):
        yield (op, f"{name} expanded", replaced(name, lambda x: x[:, :1].expand(STREAM)), ValueError, name,
               "its elements overlap one another")
    for name, shape in {"bias": (8,), "gate": (2, 8), "weight": (2, 8)}.items():
        for stream in ("view", "time"):
            yield (op, f"{name} inside {stream}", placed_inside(name, shape, stream), ValueError, stream,
                   f"shares memory with {name}")


def placed_inside(name, shape, stream):
    """A change that takes a parameter from the first elements of a stream."""
    count = torch.Size(shape).numel()
    return lambda arguments: {**arguments, name: arguments[stream].flatten()[:count].view(shape)}


def shifted_streams(arguments):
    buffer = torch.randn(2, 2, 3, 5, 8)
    return {**arguments, "view": buffer[:, :, :, :4], "time": buffer[:, :, :, 1:]}


def exchange_norm_table(op):
    for name in ("view_branch", "time_branch"):
        for what, (change, error, text) in {
            "not a tensor": (lambda x: 3.0, TypeError, "expected a torch.Tensor, got float"),
            "shape": (lambda x: x[:, :, :, :3], ValueError, "expected (2, 2, 3, 4, 8) as view"),
            "dtype": (lambda x: x.bfloat16(), TypeError, "expected torch.float32 as view"),
            "device": (lambda x: x.to("meta"), ValueError, "got device meta, expected cpu as view"),
            "last dim not contiguous": (strided, ValueError, "the last dim must be contiguous"),
        }.items():
            yield op, f"{name} {what}", replaced(name, change), error, name, text
    for name in ("branch_gate", "norm_scale", "norm_shift"):
        for wrong in ((16,), (2, 8), (1, 16), (2, 1, 16)):
            text = f"got shape {wrong}, expected (2, 16): (B, 2C)"
            yield op, f"{name} {wrong}", given(**{name: torch.zeros(wrong)}), ValueError, name, text
        yield op, f"{name} dtype", replaced(name, torch.Tensor.double), TypeError, name, "as view"
        yield op, f"{name} device", replaced(name, lambda x: x.to("meta")), ValueError, name, "got device meta"
        yield op, f"{name} number", given(**{name: 2.0}), TypeError, name, "expected a torch.Tensor, got float"
    for name in ("norm_scale", "norm_shift"):
        yield op, f"{name} None", given(**{name: None}), TypeError, name, "expected a torch.Tensor, got NoneType"
    for value in ("1e-6", None, True, torch.ones(())):
        yield op, f"eps {value!r}", given(eps=value), TypeError, "eps", "expected a number"
    for value in (-1e-6, float("nan")):
        yield op, f"eps {value!r}", given(eps=value), ValueError, "eps", "expected a number >= 0"
    if op.endswith("_"):
        yield from exchange_norm_in_place_table(op)


def exchange_norm_in_place_table(op):
    for name in ("view_branch", "time_branch", "branch_gate", "norm_scale", "norm_shift"):
        yield (op, f"{name} requires grad", replaced(name, lambda x: x.requires_grad_()), ValueError, name,
               f"requires grad, but {op} writes in place and has no gradient; call {op[:-1]}")
    for name, other in (("view", "view_branch"), ("time", "view_branch"), ("view_branch", "time_branch")):
        yield (op, f"{other} is {name}", (lambda a, n=name, o=other: {**a, o: a[n]}), ValueError, name,
               f"shares memory with {other}")
    for name in ("view_branch", "time_branch"):
        yield (op, f"{name} expanded", replaced(name, lambda x: x[:, :1].expand(STREAM)), ValueError, name,
               "its elements overlap one another")
        yield (op, f"norm_scale inside {name}", placed_inside("norm_scale", (2, 16), name), ValueError, name,
               "shares memory with norm_scale")


def rope_table(op):
    for given_name, missing in (("q_weight", "k_weight"), ("k_weight", "q_weight"), ("cos", "sin"), ("sin", "cos")):
        text = f"got None while {given_name} is given"
        yield op, f"{missing} missing", given(**{missing: None}), ValueError, missing, text
    for name in ("q_weight", "k_weight"):
        yield op, f"{name} number", given(**{name: 1.0}), TypeError, name, "expected a torch.Tensor"
        yield op, f"{name} shape", given(**{name: torch.ones(2, 8)}), ValueError, name, "(2, 8), expected (8,)"
        yield op, f"{name} dtype", replaced(name, torch.Tensor.half), TypeError, name, "as q"
        yield op, f"{name} device", replaced(name, lambda x: x.to("meta")), ValueError, name, "got device meta"
    for name in ("cos", "sin"):
        yield op, f"{name} number", given(**{name: 1.0}), TypeError, name, "expected a torch.Tensor"
        yield op, f"{name} integers", replaced(name, torch.Tensor.long), TypeError, name, "got dtype torch.int64"
        yield op, f"{name} device", replaced(name, lambda x: x.to("meta")), ValueError, name, "got device meta"
        yield op, f"{name} requires grad", replaced(name, lambda x: x.requires_grad_()), ValueError, name, "detach it"
        for shape in ((8,), (1,), (), (4, 8), (5, 4), (2, 4, 4), (3, 2, 4, 4), (2, 2, 3, 4, 1), (1, 2, 2, 3, 4, 4)):
            yield op, f"{name} {shape}", given(**{name: torch.ones(shape)}), ValueError, name, f"got shape {shape}"
    yield op, "sin of another shape", replaced("sin", lambda x: x[:1]), ValueError, "sin", "as cos"
    yield op, "sin of another dtype", replaced("sin", torch.Tensor.double), ValueError, "sin", "as cos"
    yield op, "odd head dim", odd_head_dim, ValueError, "q", "got head dim 7, expected an even one"
    for value in ("1e-6", None, True, torch.ones(())):
        yield op, f"eps {value!r}", given(eps=value), TypeError, "eps", "expected a number"
    for value in (-1e-6, float("nan")):
        yield op, f"eps {value!r}", given(eps=value), ValueError, "eps", "expected a number >= 0"
    if op == "qk_norm_rope_":
        yield from rope_in_place_table(op)


def odd_head_dim(arguments):
    return {**arguments, "q": torch.randn(2, 2, 3, 4, 2, 7), "k": torch.randn(2, 2, 3, 4, 2, 7),
            "q_weight": torch.randn(7), "k_weight": torch.randn(7)}


def rope_in_place_table(op):
    for name in ("q", "k", "q_weight", "k_weight"):
        yield (op, f"{name} requires grad", replaced(name, lambda x: x.requires_grad_()), ValueError, name,
               "requires grad, but qk_norm_rope_ writes in place and has no gradient; call qk_norm_rope")
    yield op, "one buffer", (lambda a: {**a, "k": a["q"]}), ValueError, "q", "shares memory with k"
    for name in ("q", "k"):
        yield (op, f"{name} expanded", replaced(name, lambda x: x[:, :1].expand(SHAPE)), ValueError, name,
               "its elements overlap one another")
        yield (op, f"cos inside {name}", (lambda a, n=name: {**a, "cos": a[n].flatten()[:4], "sin": torch.ones(4)}),
               ValueError, name, "shares memory with cos")
        yield (op, f"k_weight inside {name}", (lambda a, n=name: {**a, "k_weight": a[n].flatten()[:8]}), ValueError,
               name, "shares memory with k_weight")
