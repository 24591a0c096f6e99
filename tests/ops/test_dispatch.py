"""Which backend runs, what ``explain`` says about it, and how a choice carries to the backward and to compiled code."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import fourreal_kernels
from attention_cases import random_qkv
from fourreal_kernels import (
    available_backends,
    axis_attention,
    explain,
    sync_exchange,
    two_stream_attention,
    use_backend,
)
from fourreal_kernels.dispatch import BACKENDS
from fourreal_kernels.ops.axis_attention import reference, sdpa
from op_backends import backends
from op_numerics import bitwise_equal

SHAPE = (1, 2, 3, 4, 2, 8)


@pytest.fixture
def calls(monkeypatch):
    """Names of the attention backend functions that ran, in order."""
    ran = []
    for name, module in (("reference", reference), ("sdpa", sdpa)):
        for function in ("forward", "backward"):
            original = getattr(module, function)

            def spy(*args, original=original, record=f"{name} {function}"):
                ran.append(record)
                return original(*args)

            monkeypatch.setattr(module, function, spy)
    return ran


def refuse(monkeypatch, module, reason="it was told not to"):
    monkeypatch.setattr(module, "refusal", lambda call: reason)


def test_available_backends():
    assert available_backends("axis_attention")[:2] == ["reference", "sdpa"]
    for op in ("axis_attention", "two_stream_attention", "sync_exchange", "sync_exchange_", "qk_norm_rope",
               "qk_norm_rope_"):
        assert "reference" in backends(op) and set(backends(op)) <= set(BACKENDS)


def test_a_backend_that_cannot_load_here_is_not_available(monkeypatch):
    monkeypatch.setattr(sdpa, "unavailable", lambda: "not built")
    assert "sdpa" not in available_backends("axis_attention")
    with pytest.raises(NotImplementedError, match="^backend: 'sdpa' cannot run this axis_attention call: not built"):
        axis_attention(*random_qkv(*SHAPE), "vn", backend="sdpa")


@pytest.mark.parametrize("ask", [available_backends, explain])
def test_unknown_operators(ask):
    with pytest.raises(ValueError, match="^op: got 'attention', expected one of axis_attention, qk_norm_rope"):
        ask("attention")


def test_explain_gives_the_choice_and_a_reason_for_every_backend():
    explanation = explain("axis_attention", *random_qkv(*SHAPE), "vn|tn", backend="reference")
    assert explanation.op == "axis_attention" and explanation.chosen == "reference"
    assert list(explanation.reasons) == list(BACKENDS)
    assert explanation.reasons["reference"] == "chosen"
    assert explanation.reasons["sdpa"].startswith("can run")
    assert explanation.reasons["cuda"] and "can run" not in explanation.reasons["cuda"]


def test_explain_as_text():
    explanation = explain("axis_attention", *random_qkv(*SHAPE), "vn", backend="sdpa")
    lines = str(explanation).splitlines()
    assert lines[0] == "axis_attention: sdpa"
    assert [line.split()[0] for line in lines[1:]] == list(BACKENDS)
    assert [line.split(maxsplit=1)[1] for line in lines[1:]] == list(explanation.reasons.values())


def test_explain_names_the_backend_that_auto_runs(calls):
    q, k, v = random_qkv(*SHAPE)
    chosen = explain("axis_attention", q, k, v, "vn").chosen
    assert calls == [], "explain computed something"
    if chosen in ("reference", "sdpa"):
        axis_attention(q, k, v, "vn")
        assert calls == [f"{chosen} forward"]


@pytest.mark.parametrize("op", ["sync_exchange", "sync_exchange_", "qk_norm_rope", "qk_norm_rope_",
                                "two_stream_attention"])
def test_explain_of_the_other_operators(op):
    for name in fourreal_kernels.dispatch._operators[op].backends:
        module = f"fourreal_kernels.ops.{op.removesuffix('_')}.{name}"
        if "exchange" in op:
            pytest.importorskip(module, reason=f"{module} is not written yet")
    view, time = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    q, k, v = random_qkv(*SHAPE)
    arguments, keywords = {
        "sync": ((view, time, torch.randn(2, 8)), {"kind": "hard"}),
        "qk_n": ((q, k, None, None, None, None), {}),
        "two_": (((q, k, v), (q, k, v)), {}),
    }[op[:4]]
    copies = view.clone(), q.clone()
    explanation = explain(op, *arguments, **keywords)
    assert explanation.chosen in backends(op) and list(explanation.reasons) == list(BACKENDS)
    assert bitwise_equal(view, copies[0]) and bitwise_equal(q, copies[1]), "explain wrote to a buffer"


def test_explain_raises_what_the_operator_raises():
    q, k, v = random_qkv(*SHAPE)
    for arguments, keywords in (
        ((q, k[0], v, "vn"), {}), ((q, k, v, "xy"), {}), ((q, k, v, "vn"), {"backend": "flash"}),
        ((q, k, v, "vn"), {"scale": "1"}), ((q, k, v, "vn"), {"out": q[0]}),
        ((q.clone().requires_grad_(), k, v, "vn"), {"out": torch.zeros(SHAPE)}),
    ):
        with pytest.raises((TypeError, ValueError)) as from_operator:
            axis_attention(*arguments, **keywords)
        with pytest.raises(from_operator.type) as from_explain:
            explain("axis_attention", *arguments, **keywords)
        assert str(from_explain.value) == str(from_operator.value)


def test_explain_without_a_backend_that_accepts(monkeypatch):
    for module in (reference, sdpa):
        refuse(monkeypatch, module)
    q, k, v = random_qkv(*SHAPE)
    explanation = explain("axis_attention", q, k, v, "vn", backend="sdpa")
    assert explanation.chosen is None and str(explanation).startswith("axis_attention: no backend")
    assert explanation.reasons["sdpa"] == "it was told not to"
    with pytest.raises(NotImplementedError, match="no backend accepts|cannot run"):
        axis_attention(q, k, v, "vn", backend="sdpa")


def test_auto_falls_back_and_says_why(monkeypatch, calls):
    refuse(monkeypatch, sdpa)
    q, k, v = random_qkv(*SHAPE)
    with use_backend("reference"):
        axis_attention(q, k, v, "vn")
    assert calls == ["reference forward"]
    assert explain("axis_attention", q, k, v, "vn").reasons["sdpa"] == "it was told not to"
    assert explain("axis_attention", q, k, v, "vn").chosen != "sdpa"
    axis_attention(q, k, v, "vn")
    assert "sdpa forward" not in calls


def test_an_explicit_backend_never_falls_back(monkeypatch, calls):
    refuse(monkeypatch, sdpa)
    q, k, v = random_qkv(*SHAPE)
    message = "^backend: 'sdpa' cannot run this axis_attention call: it was told not to"
    with pytest.raises(NotImplementedError, match=message):
        axis_attention(q, k, v, "vn", backend="sdpa")
    with pytest.raises(NotImplementedError, match=message):
        two_stream_attention((q, k, v), (q, k, v), backend="sdpa")
    with pytest.raises(NotImplementedError, match=message), use_backend("sdpa"):
        axis_attention(q, k, v, "vn")
    out = torch.full_like(q, float("nan"))
    with pytest.raises(NotImplementedError, match=message):
        axis_attention(q, k, v, "vn", backend="sdpa", out=out)
    assert calls == [] and out.isnan().all()


def test_an_explicit_backend_does_not_fall_back_in_the_backward(monkeypatch, calls):
    q, k, v = (x.requires_grad_() for x in random_qkv(*SHAPE))
    out = axis_attention(q, k, v, "vn", backend="sdpa")
    refuse(monkeypatch, sdpa)
    with pytest.raises(NotImplementedError, match="'sdpa' cannot run"):
        out.sum().backward()
    assert calls == ["sdpa forward"]


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_the_backward_runs_on_the_backend_of_the_forward(calls, backend):
    q, k, v = (x.requires_grad_() for x in random_qkv(*SHAPE))
    axis_attention(q, k, v, "vn", backend=backend).sum().backward()
    assert calls == [f"{backend} forward", f"{backend} backward"]
    calls.clear()
    sum(x.sum() for x in two_stream_attention((q, k, v), (q, k, v), backend=backend)).backward()
    assert calls == [f"{backend} forward"] * 2 + [f"{backend} backward"] * 2


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_use_backend_covers_forward_and_backward(calls, backend):
    q, k, v = (x.requires_grad_() for x in random_qkv(*SHAPE))
    with use_backend(backend):
        axis_attention(q, k, v, "vn").sum().backward()
    assert calls == [f"{backend} forward", f"{backend} backward"]


def test_a_named_backend_wins_over_use_backend(calls):
    with use_backend("reference"):
        axis_attention(*random_qkv(*SHAPE), "vn", backend="sdpa")
    assert calls == ["sdpa forward"]


def test_use_backend_nests_and_restores(calls):
    qkv = random_qkv(*SHAPE)
    with use_backend("reference"):
        with use_backend("sdpa"):
            axis_attention(*qkv, "vn")
        axis_attention(*qkv, "vn")
        with use_backend("auto"):
            automatic = explain("axis_attention", *qkv, "vn").chosen
    assert calls == ["sdpa forward", "reference forward"]
    assert automatic == explain("axis_attention", *qkv, "vn").chosen


def test_use_backend_restores_after_an_exception(calls):
    qkv = random_qkv(*SHAPE)
    before = explain("axis_attention", *qkv, "vn").chosen
    with pytest.raises(RuntimeError, match="inside"):
        with use_backend("reference"), use_backend("sdpa"):
            raise RuntimeError("inside")
    assert explain("axis_attention", *qkv, "vn").chosen == before


def test_use_backend_leaves_operators_without_it_automatic():
    q, k, _ = random_qkv(*SHAPE)
    with use_backend("sdpa"):
        assert explain("qk_norm_rope", q, k, None, None, None, None).chosen in backends("qk_norm_rope")


@pytest.mark.parametrize("name, error", [("flash", ValueError), (None, TypeError), (3, TypeError)])
def test_use_backend_of_something_else(name, error):
    with pytest.raises(error, match="^backend: "):
        with use_backend(name):
            pass
    assert explain("axis_attention", *random_qkv(*SHAPE), "vn").chosen is not None


def test_compiled_code_follows_use_backend_when_it_runs(calls):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda q, k, v: axis_attention(q, k, v, "vn"), backend=counter, fullgraph=True)
    for backend in ("reference", "sdpa", "reference"):
        leaves = [x.requires_grad_() for x in random_qkv(*SHAPE)]
        with use_backend(backend):
            compiled(*leaves).sum().backward()
    assert calls == [f"{b} {part}" for b in ("reference", "sdpa", "reference") for part in ("forward", "backward")]
    assert counter.frame_count == 1


def test_compiled_code_keeps_a_named_backend(calls):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda q, k, v: axis_attention(q, k, v, "vn", backend="sdpa"), backend="aot_eager", fullgraph=True
    )
    with use_backend("reference"):
        compiled(*random_qkv(*SHAPE))
    assert calls == ["sdpa forward"]


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
def test_an_exchange_that_needs_a_gradient_runs_where_there_is_a_backward(monkeypatch, compile_it):
    """Forward and backward on one backend, the one that ``explain`` names; without grad any backend may be faster."""
    ran = []
    for name in backends("sync_exchange"):
        module = fourreal_kernels.dispatch.load("sync_exchange", name)
        for function in ("forward", "backward"):
            if original := getattr(module, function, None):
                def spy(*args, original=original, record=(name, function)):
                    ran.append(record)
                    return original(*args)

                monkeypatch.setattr(module, function, spy)
    torch._dynamo.reset()
    call = torch.compile(sync_exchange, backend="aot_eager", fullgraph=True) if compile_it else sync_exchange
    view, time, weight = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.randn(2, 8, requires_grad=True)
    chosen = explain("sync_exchange", view, time, weight, kind="hard").chosen
    sum(x.sum() for x in call(view, time, weight, kind="hard")).backward()
    assert ran == [(chosen, "forward"), (chosen, "backward")]
    ran.clear()
    with torch.no_grad():
        chosen = explain("sync_exchange", view, time, weight, kind="hard").chosen
        call(view, time, weight, kind="hard")
    assert ran == [(chosen, "forward")]


def test_every_backend_has_what_dispatch_asks_for():
    for op in ("axis_attention", "sync_exchange", "qk_norm_rope"):
        for name in backends(op):
            module = fourreal_kernels.dispatch.load(op, name)
            assert module.unavailable() is None and callable(module.refusal)
