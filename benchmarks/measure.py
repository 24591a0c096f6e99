"""Checks and times one case."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from .case import Case, Context, Provider, Workload
from .ceilings import Ceilings
from .memory import peak_bytes
from .timing import TimingSettings, interleaved, quantiles, synchronizer

Samples = dict[str, list[float]]


def measure_case(
    case: Case, context: Context, settings: TimingSettings, sample: Callable[[list[Provider]], Samples] | None = None
) -> dict[str, Any]:
    """Check every provider of a case, then time those that passed.

    A provider that raises or whose result is too far from the float64 reference is recorded as failed, with the reason,
    and has no seconds.

    Args:
        sample: times the providers as :func:`~benchmarks.timing.interleaved` does, which is taken when it is None.

    Returns:
        The record of the case, see ``record.py``.
    """
    record = _describe(case)
    workload = case.build(context)
    providers = {name: {"status": "absent", "reason": reason} for name, reason in workload.absent.items()}
    passed = []
    for provider in workload.providers:
        providers[provider.name] = _check(provider, workload, case.dtype, context)
        if providers[provider.name]["status"] == "ok":
            passed.append(provider)
    samples = sample(passed) if sample else interleaved(passed, settings, synchronizer(context.device))
    for name, seconds in samples.items():
        provider, _, stage = name.partition("/")
        target = providers[provider].setdefault("stages", {}).setdefault(stage, {}) if stage else providers[provider]
        target |= _statistics(seconds)
        if not stage:
            target |= _rates(case, target["p50"])
    return record | {"rounds": len(next(iter(samples.values()), ())), "providers": providers}


def add_ceilings(record: dict[str, Any], ceilings: Ceilings) -> None:
    """Add to each provider's rates what part of the ceilings they are."""
    for provider in record["providers"].values():
        if "gflops" in provider:
            provider["fma_percent"] = _rounded(100 * provider["gflops"] / ceilings.fma_gflops)
        if "gbs" in provider:
            provider["copy_percent"] = _rounded(100 * provider["gbs"] / ceilings.copy_gbs)


def _describe(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "suite": case.suite,
        "op": case.op,
        "axes": case.axes,
        "variant": case.variant,
        "sizes": case.sizes,
        "dtype": str(case.dtype).removeprefix("torch."),
        "direction": case.direction,
        "output": case.output,
        "flops": case.flops,
        "bytes": case.bytes,
        "main_peer": case.main_peer,
    }


def _check(provider: Provider, workload: Workload, dtype: torch.dtype, context: Context) -> dict[str, Any]:
    try:
        results, peak = _first_results(provider, context)
        finished = provider.finish(results) if provider.finish else results
        deviation = workload.check(finished)
    except Exception as error:  # whatever a provider raises, the others are still measured
        message = " ".join(str(error).split())[:300]
        return {"status": "failed", "reason": f"{type(error).__name__}: {message}"}
    outcome = {
        "error": _rounded(deviation.error), "relative_error": _rounded(deviation.relative),
        "rms_error": _rounded(deviation.rms), "peak_bytes": peak,
    }
    if deviation.accepted(dtype):
        return {"status": "ok"} | outcome
    return {"status": "failed", "reason": f"wrong result: relative error {deviation.relative:.2e}"} | outcome


def _first_results(provider: Provider, context: Context):
    """The results of a call from fresh inputs, and its peak memory."""
    if provider.compiled:
        provider.run()
    if provider.refresh:
        provider.refresh()
    if provider.process:
        return provider.run(), None
    started = perf_counter()
    found = peak_bytes(provider.run, context.device)
    provider.known_seconds = perf_counter() - started
    return found


def _statistics(seconds: list[float]) -> dict[str, Any]:
    found = quantiles(seconds)
    return {
        "p20": _rounded(found.p20), "p50": _rounded(found.p50), "p80": _rounded(found.p80),
        "samples": [_rounded(x) for x in seconds],
    }


def _rates(case: Case, seconds: float) -> dict[str, float]:
    rates = {}
    if case.flops:
        rates["gflops"] = _rounded(case.flops / seconds / 1e9)
    if case.bytes:
        rates["gbs"] = _rounded(case.bytes / seconds / 1e9)
    return rates


def _rounded(value: float) -> float:
    """Four significant digits; infinity and NaN, which JSON lacks, as the largest float."""
    return float(f"{value:.4g}") if abs(value) < float("inf") else 1.797e308
