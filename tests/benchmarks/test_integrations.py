"""The suite of diffusers' models: the stock forms are those of the modules, and every provider is right."""

from __future__ import annotations

import pytest
import torch

from benchmarks.case import Case, random_tensor
from benchmarks.measure import measure_case
from benchmarks.peers import temporal
from benchmarks.suites import attention, integrations
from benchmarks.timing import TimingSettings

BRIEF = TimingSettings(sample_seconds=1e-5, case_seconds=0.01, least_rounds=3, most_rounds=3)
QUICK = [*integrations.cases(quick=True), attention.extra_case(attention.grid_sizes(4, 64, 2, 3), extra=5)]
# 3 s at 100 GFLOP/s; bytes of one tensor.
MOST_FLOPS, MOST_BYTES = 3e11, 200e6


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_every_provider_is_right(case: Case, context):
    providers = measure_case(case, context, BRIEF)["providers"]
    assert {provider["status"] for provider in providers.values()} == {"ok"}, providers
    assert {case.main_peer, "ours:reference"} <= set(providers)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_a_wrong_result_is_refused(case: Case, context):
    workload = case.build(context)
    for provider in workload.providers:
        results = provider.finish(provider.run()) if provider.finish else provider.run()
        assert workload.check(results).accepted(case.dtype)
        assert not workload.check([x * 1.001 for x in results]).accepted(case.dtype)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_results_are_fresh(case: Case, context):
    for provider in case.build(context).providers:
        first, second = provider.run(), provider.run()
        assert all(x.data_ptr() != y.data_ptr() for x, y in zip(first, second, strict=True)), provider.name


def test_the_cases_stay_within_seconds():
    for case in integrations.cases(quick=False):
        assert case.flops < MOST_FLOPS, case.name
        assert 4 * torch.Size(case.sizes.values()).numel() < MOST_BYTES, case.name


def test_the_fused_grid_is_measured_against_a_mask():
    peers = [case.main_peer for case in integrations.cases(quick=False) if case.axes == "vn|tn"]
    assert peers == [attention.DENSE, attention.MERGED]


def test_extra_tokens_count():
    sizes = attention.grid_sizes(4, 64, 2, 3)
    plain = attention.attention_case("vn", sizes, "forward")
    extra = attention.extra_case(sizes, extra=2 * 4)  # as many as a line has
    assert extra.flops == 2 * plain.flops
    assert extra.bytes == pytest.approx(plain.bytes * (1 + 1 / 6))


def test_frames_to_sequences_and_back():
    frames = torch.arange(2 * 3 * 4 * 5.0).reshape(2 * 3, 4, 5)
    sequences = temporal.to_sequences(frames, 3)
    assert sequences.shape == (2 * 4, 3, 5) and sequences.is_contiguous()
    assert torch.equal(sequences[4 + 1, 2], frames[3 + 2, 1])
    assert torch.equal(temporal.to_frames(sequences, 4), frames)


def test_the_layer_is_that_of_diffusers(context):
    """``Attention`` with its own processor, on sequences."""
    modules = pytest.importorskip("diffusers.models.attention_processor")
    module = modules.Attention(query_dim=24, heads=3, dim_head=8).double()
    frames = random_tensor(context, 2 * 3, 4, 24, dtype=torch.float64)
    weights = (module.to_q, module.to_k, module.to_v, module.to_out[0])
    projections = temporal.Projections(*(x.weight for x in weights), bias=module.to_out[0].bias)
    with torch.no_grad():
        expected = temporal.to_frames(module(temporal.to_sequences(frames, 3)), 4)
        assert torch.equal(temporal.layer(frames, projections, 3, 3), expected)
