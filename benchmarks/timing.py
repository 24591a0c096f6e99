"""Interleaved timing: every round times every provider once, so that a change of the machine's speed meets them all."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from .case import Provider

# Wide vector instructions run below their rate for some hundred microseconds after a pause.
_WARM_UP_SECONDS = 1e-3
# A call this long is not slowed measurably by that ramp.
_LONG_CALL_SECONDS = 2e-2
# The call that was checked is trial enough for one this long.
_VERY_LONG_CALL_SECONDS = 0.3
_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class TimingSettings:
    """How long a case is measured.

    Attributes:
        sample_seconds: a sample repeats short calls until it lasts at least this long.
        case_seconds: aim for the total of one case.
        least_rounds, most_rounds: bounds of the rounds; when rounds are so slow that ``least_rounds`` take more than
            twice ``case_seconds``, three are enough.
    """

    sample_seconds: float = 2e-3
    case_seconds: float = 1.5
    least_rounds: int = 5
    most_rounds: int = 25


QUICK = TimingSettings(sample_seconds=1e-3, case_seconds=0.2, least_rounds=3, most_rounds=10)


def synchronizer(device: torch.device) -> Callable[[], None]:
    """Waits until the device has finished what was asked of it."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def interleaved(
    providers: Sequence[Provider], settings: TimingSettings, synchronize: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds per call of each provider, one sample per round; those of a stage are named ``provider/stage``.

    The order rotates from round to round. Before each sample the inputs are refreshed and, for calls shorter than 20
    ms, the provider is called until a millisecond has passed. Garbage collection is off.

    Returns:
        Samples of equal length per provider name; sample i of all providers is of the same round.
    """
    samples: dict[str, list[float]] = {provider.name: [] for provider in providers}
    if not providers:
        return samples
    with _no_garbage_collection():
        plans = {p.name: _plan(p, settings.sample_seconds, synchronize) for p in providers}
        started = perf_counter()
        for index in range(settings.most_rounds):
            if _enough(index, perf_counter() - started, settings):
                break
            start = index % len(providers)
            for provider in [*providers[start:], *providers[:start]]:
                samples[provider.name].append(_sample(provider, plans[provider.name], synchronize))
                for stage, seconds in (provider.stages() if provider.stages else {}).items():
                    samples.setdefault(f"{provider.name}/{stage}", []).append(seconds)
    return samples


def _enough(rounds: int, elapsed: float, settings: TimingSettings) -> bool:
    """Whether to stop before one more round."""
    if rounds < _LEAST_ROUNDS:
        return False
    expected = elapsed * (rounds + 1) / rounds
    limit = settings.case_seconds * (1 if rounds >= settings.least_rounds else 2)
    return expected > limit


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class _Plan:
    """How a sample of one provider is taken: calls per sample, and whether others come before it."""

    calls: int
    warm_up: bool


def _plan(provider: Provider, sample_seconds: float, synchronize: Callable[[], None]) -> _Plan:
    if provider.process or provider.known_seconds > _VERY_LONG_CALL_SECONDS:
        return _Plan(1, warm_up=False)
    seconds = _sample(provider, _Plan(1, warm_up=False), synchronize)
    if seconds < _LONG_CALL_SECONDS:
        seconds = min(seconds, _sample(provider, _Plan(1, warm_up=True), synchronize))
    return _Plan(max(1, math.ceil(sample_seconds / max(seconds, 1e-9))), warm_up=seconds < _LONG_CALL_SECONDS)


def _sample(provider: Provider, plan: _Plan, synchronize: Callable[[], None]) -> float:
    if provider.refresh:
        provider.refresh()
    if plan.warm_up:
        _warm_up(provider.run, synchronize)
    run = provider.run
    synchronize()
    started = perf_counter()
    for _ in range(plan.calls):
        run()
    synchronize()
    return (perf_counter() - started) / plan.calls


def _warm_up(run: Callable[[], object], synchronize: Callable[[], None]) -> None:
    started = perf_counter()
    while perf_counter() - started < _WARM_UP_SECONDS:
        run()
        synchronize()


@dataclass(frozen=True)
class Quantiles:
    p20: float
    p50: float
    p80: float


def quantiles(samples: Sequence[float]) -> Quantiles:
    """20th, 50th and 80th percentile, interpolated linearly."""
    return Quantiles(*(float(x) for x in np.percentile(np.asarray(samples), (20, 50, 80))))


def paired_ratio(peer: Sequence[float], ours: Sequence[float]) -> float:
    """Median over the rounds of the peer's seconds divided by ours: above 1, ours is faster."""
    return float(np.median(np.asarray(peer) / np.asarray(ours)))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
