"""A provider is timed only after its result was checked; memory of one call; references."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import fourreal_kernels as fk
from benchmarks.case import Context, random_tensor
from benchmarks.ceilings import Ceilings, measure_ceilings
from benchmarks.check import deviation, edge_tokens
from benchmarks.measure import add_ceilings, measure_case
from benchmarks.memory import peak_bytes
from benchmarks.references import AttentionCheck
from benchmarks.suites.attention import attention_case
from benchmarks.suites.pointwise import pointwise_case
from benchmarks.timing import TimingSettings

BRIEF = TimingSettings(sample_seconds=1e-5, case_seconds=0.01, least_rounds=3, most_rounds=3)
TIMES = ("p20", "p50", "p80", "samples", "gflops", "gbs")


def test_only_right_providers_are_timed(doubling, context):
    providers = measure_case(doubling, context, BRIEF)["providers"]
    right = providers.pop("right")
    assert right["status"] == "ok" and len(right["samples"]) == 3
    assert right["p20"] <= right["p50"] <= right["p80"]
    for name, provider in providers.items():
        assert provider["status"] == ("absent" if name == "ours:cpu" else "failed")
        assert provider["reason"] and not any(key in provider for key in TIMES)
    assert "1.0" in providers["wrong"]["reason"] or "5.0" in providers["wrong"]["reason"]
    assert providers["raising"]["reason"] == "RuntimeError: no such instruction"
    json.dumps(providers, allow_nan=False)


def test_rates_and_their_part_of_the_ceilings(doubling, context):
    record = measure_case(doubling, context, BRIEF)
    add_ceilings(record, Ceilings(200.0, "a", 50.0, "b"))
    right = record["providers"]["right"]
    assert right["gflops"] == pytest.approx(1000 / right["p50"] / 1e9, rel=1e-3)
    assert right["fma_percent"] == pytest.approx(right["gflops"] / 2, rel=1e-3)
    assert right["copy_percent"] == pytest.approx(right["gbs"] * 2, rel=1e-3)


def test_deviation():
    expected = (torch.tensor([1.0, -4.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))
    found = deviation((torch.tensor([1.0, -4.0]), torch.tensor([0.75])), expected)
    assert found.error == 0.25 and found.relative == 0.5
    assert found.rms == pytest.approx((0.25**2 / 3) ** 0.5)
    assert not found.accepted(torch.float32)
    assert not deviation((torch.tensor([float("nan"), -4.0]), torch.tensor([0.5])), expected).accepted(torch.float16)


def test_edge_tokens():
    assert edge_tokens(32) == slice(None)
    assert edge_tokens(100, 2) == [0, 1, 98, 99]


def test_peak_memory_counts_what_a_call_allocates():
    megabytes = 64
    result, peak = peak_bytes(lambda: torch.ones(megabytes * 2**20 // 4), torch.device("cpu"))
    assert result.numel() == megabytes * 2**20 // 4
    if peak is None:
        pytest.skip("this system does not let a process reset its peak memory")
    # the system counts pages in batches per core
    assert 0.97 * megabytes * 2**20 <= peak < 1.2 * megabytes * 2**20


def test_peak_memory_of_what_is_freed_before_the_return():
    _, peak = peak_bytes(lambda: torch.ones(16 * 2**20).sum().item(), torch.device("cpu"))
    if peak is None:
        pytest.skip("this system does not let a process reset its peak memory")
    assert peak >= 0.97 * 64 * 2**20


@pytest.mark.parametrize("axes", ["tn", "vn", "vn|tn"])
def test_partial_reference_is_the_whole_one(axes, context, monkeypatch):
    """At sizes where both can be computed, forward and gradients."""
    q, k, v, grad = (random_tensor(context, 1, 3, 4, 5, 2, 8, seed=seed, dtype=torch.float64) for seed in range(4))
    monkeypatch.setattr("benchmarks.references._LARGEST_WHOLE", 0)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = fk.axis_attention(*leaves, axes, backend="reference")
    grads = torch.autograd.grad(out, leaves, grad)
    assert AttentionCheck(q, k, v, axes)([out.detach()]).relative < 1e-13
    assert AttentionCheck(q, k, v, axes, grad)(grads).relative < 1e-13
    assert AttentionCheck(q, k, v, axes, grad)([grads[0], grads[1], grads[2] * 1.01]).relative > 1e-3


@pytest.mark.parametrize("axes", ["tn", "vn|tn"])
def test_partial_reference_with_extra_tokens(axes, context, monkeypatch):
    q, k, v, grad = (random_tensor(context, 1, 3, 4, 5, 2, 8, seed=seed, dtype=torch.float64) for seed in range(4))
    extra = tuple(random_tensor(context, 1, 7, 2, 8, seed=seed, dtype=torch.float64) for seed in (4, 5))
    whole = AttentionCheck(q, k, v, axes, extra=extra)
    monkeypatch.setattr("benchmarks.references._LARGEST_WHOLE", 0)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = fk.axis_attention(*leaves, axes, extra_k=extra[0], extra_v=extra[1], backend="reference")
    grads = torch.autograd.grad(out, leaves, grad)
    assert whole([out.detach()]).relative < 1e-13
    assert AttentionCheck(q, k, v, axes, extra=extra)([out.detach()]).relative < 1e-13
    assert AttentionCheck(q, k, v, axes, grad, extra)(grads).relative < 1e-13
    assert AttentionCheck(q, k, v, axes)([out.detach()]).relative > 1e-3


def test_peers_agree_with_the_reference():
    """Every eager peer of the attention and pointwise suites passes its check at a small size."""
    context = Context(torch.device("cpu"), ("reference",), compile=False)
    sizes = {"B": 1, "V": 3, "T": 2, "N": 4, "H": 2, "D": 8}
    cases = [attention_case(axes, sizes, way) for axes in ("tn", "vn", "vn|tn") for way in ("forward", "backward")]
    cases += [pointwise_case(axes, 4, 128) for axes in ("v", "t", "v|t")]
    cases += [pointwise_case("t", 4, 128, output="fresh"), pointwise_case("v", 4, 128, direction="forward+backward")]
    for case in cases:
        providers = measure_case(case, context, BRIEF)["providers"]
        states = {name: provider["status"] for name, provider in providers.items() if "compiled" not in name}
        assert len(states) >= 3 and set(states.values()) == {"ok"}, (case.name, providers)


def test_output_that_nobody_writes_is_refused(context, monkeypatch):
    """The given output still holds what the provider before wrote, unless it is made invalid between them."""
    case = pointwise_case("v", 4, 128)
    workload = case.build(context)
    workload.providers.sort(key=lambda provider: provider.name.startswith("ours:"))
    monkeypatch.setattr(fk, "axis_attention", lambda *args, out, backend: out)
    providers = measure_case(replace(case, build=lambda _: workload), context, BRIEF)["providers"]
    assert list(providers)[-1] == "ours:reference" and providers["einsum"]["status"] == "ok"
    assert providers["ours:reference"]["reason"].startswith("wrong result")


def test_ceilings_without_a_native_library(monkeypatch):
    monkeypatch.setattr("fourreal_kernels.native.cpu_library", lambda: None)
    monkeypatch.setattr("benchmarks.ceilings._COPY_MEGABYTES", 8)
    monkeypatch.setattr("benchmarks.ceilings._MATRIX", 256)
    found = measure_ceilings(torch.device("cpu"), milliseconds=5)
    assert found.fma_gflops > 1 and found.copy_gbs > 0.1
    assert "torch.mm" in found.fma_source and found.copy_source == "torch copy_"
    higher = found.merged(Ceilings(1e9, "x", 0.0, "y"))
    assert higher.fma_source == "x" and higher.copy_gbs == found.copy_gbs
