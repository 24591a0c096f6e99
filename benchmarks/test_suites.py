"""Thin pytest-benchmark entries on small cases: ``pytest benchmarks --benchmark-only``.

For a quick look at one provider; figures that compare providers come from ``fourreal bench``, which interleaves them.
"""

from __future__ import annotations

import pytest
import torch

from .case import Case, Context
from .runner import DEFAULT_BACKENDS
from .suites import SUITES

_DEVICE = torch.device("cpu")
# Processes of their own, and sizes without a peer.
_LEFT_OUT = ("generate", "growth")


def _small_cases() -> list[Case]:
    return [case for name, suite in SUITES.items() if name not in _LEFT_OUT for case in suite.cases(quick=True)]


@pytest.mark.benchmark(warmup=True, disable_gc=True)
@pytest.mark.parametrize("case", _small_cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("role", ["ours", "peer"])
def test_case(benchmark, case: Case, role: str) -> None:
    """Time our first provider, or the main peer, after its result was checked."""
    workload = case.build(Context(_DEVICE, DEFAULT_BACKENDS[_DEVICE.type], compile=False))
    provider = next((p for p in workload.providers if _plays(p.name, role, case)), None)
    if provider is None:
        pytest.skip(f"no {role} provider: {workload.absent or 'the case has none'}")
    if provider.refresh:
        provider.refresh()
    results = provider.run()
    deviation = workload.check(provider.finish(results) if provider.finish else results)
    assert deviation.accepted(case.dtype), deviation
    benchmark(provider.run)


def _plays(name: str, role: str, case: Case) -> bool:
    return name.startswith("ours:") if role == "ours" else name == case.main_peer
