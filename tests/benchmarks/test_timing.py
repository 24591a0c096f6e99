"""Interleaved timing and its statistics."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

import pytest

from benchmarks.case import Provider
from benchmarks.timing import (
    TimingSettings,
    geometric_mean,
    interleaved,
    paired_ratio,
    quantiles,
)

SETTINGS = TimingSettings(sample_seconds=1e-4, case_seconds=0.05, least_rounds=4, most_rounds=6)


def _provider(name: str, calls: list[str], seconds: float = 0.0, **options) -> Provider:
    def run():
        calls.append(name)
        if seconds:
            time.sleep(seconds)
        return ()

    return Provider(name, run, **options)


def test_quantiles():
    found = quantiles([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (found.p20, found.p50, found.p80) == (2.0, 3.5, 5.0)


def test_ratio_is_paired_by_round():
    """A machine that slows down for two rounds slows both: the median of the ratios does not see it."""
    assert paired_ratio([2.0, 20.0, 20.0, 2.0], [1.0, 10.0, 10.0, 1.0]) == 2.0
    assert paired_ratio([3.0, 1.0, 2.0], [1.0, 1.0, 1.0]) == 2.0


def test_geometric_mean():
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)


def test_every_round_times_every_provider():
    samples = interleaved([_provider(name, []) for name in "abc"], replace(SETTINGS, case_seconds=60.0))
    assert list(samples) == ["a", "b", "c"]
    assert {len(seconds) for seconds in samples.values()} == {SETTINGS.most_rounds}
    assert all(second > 0 for seconds in samples.values() for second in seconds)


def test_order_rotates():
    """Processes are called once per sample, so their calls show the order."""
    calls: list[str] = []
    interleaved([_provider(name, calls, process=True) for name in "abc"], replace(SETTINGS, case_seconds=60.0))
    assert calls[:9] == list("abcbcacab")


def test_seconds_of_a_known_duration():
    samples = interleaved([_provider("short", [], 0.002), _provider("long", [], 0.006)], SETTINGS)
    assert 0.002 <= min(samples["short"]) and 0.006 <= min(samples["long"])
    assert paired_ratio(samples["long"], samples["short"]) > 1.5


def test_slow_rounds_stop_at_three():
    samples = interleaved([_provider("slow", [], 0.06)], SETTINGS)
    assert len(samples["slow"]) == 3


def test_short_calls_are_repeated():
    calls: list[str] = []
    samples = interleaved([_provider("short", calls)], TimingSettings(5e-3, 0.1, 3, 3))
    assert len(samples["short"]) == 3
    assert len(calls) > 100 and samples["short"][0] < 1e-3


def test_refresh_comes_before_every_sample_and_is_not_timed():
    refreshed: list[int] = []

    def refresh():
        refreshed.append(1)
        time.sleep(0.005)

    samples = interleaved([_provider("x", [], refresh=refresh)], SETTINGS)
    assert len(refreshed) >= len(samples["x"])
    assert max(samples["x"]) < 0.004


def test_garbage_collection_is_off_only_meanwhile():
    states = []
    interleaved([Provider("x", lambda: states.append(gc.isenabled()))], SETTINGS)
    assert states and not any(states)
    assert gc.isenabled()


def test_stages_of_a_process():
    provider = _provider("x", [], process=True)
    provider.stages = lambda: {"load": 0.25}
    samples = interleaved([provider], SETTINGS)
    assert samples["x/load"] == [0.25] * len(samples["x"])


def test_no_providers():
    assert interleaved([], SETTINGS) == {}
