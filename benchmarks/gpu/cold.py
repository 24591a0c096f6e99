"""Interleaved samples of single calls, each with a cold L2 cache."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import torch

from fourreal_kernels.gpu_timing import ColdTimer

from ..case import Provider

_MOST_ROUNDS, _LEAST_ROUNDS = 20, 3
_CASE_SECONDS = 1.2
_WARM_UPS = 2


class ColdSampler:
    """Times providers in rounds, every provider once per round, the first one changing from round to round."""

    def __init__(self, device: torch.device, most_rounds: int = _MOST_ROUNDS):
        self._timer = ColdTimer(device)
        self._most_rounds = most_rounds

    def __call__(self, providers: Sequence[Provider]) -> dict[str, list[float]]:
        """Seconds of each provider; samples of equal index are of the same round."""
        samples: dict[str, list[float]] = {provider.name: [] for provider in providers}
        for provider in providers:
            self._timer.samples(provider.run, _WARM_UPS, provider.refresh)
        started = perf_counter()
        for index in range(self._most_rounds):
            if index >= _LEAST_ROUNDS and perf_counter() - started > _CASE_SECONDS:
                break
            start = index % max(len(providers), 1)
            for provider in [*providers[start:], *providers[:start]]:
                samples[provider.name] += self._timer.samples(provider.run, 1, provider.refresh)
        return samples
