"""How long single calls take on a GPU that has none of their data in its L2 cache."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

_LEAST_FLUSH = 256 * 2**20
# The GPU waits this many cycles before a timed call, so that the call is queued whole before it starts: what is timed
# is the work, not the pace at which Python asks for it.
_WAIT_CYCLES = 1_000_000
_WARM_UPS = 3


class ColdTimer:
    """Times calls with CUDA events, each after a write to a buffer larger than the L2 cache.

    On the CPU it reads the clock, without a flush: for trying out what is measured on a GPU.
    """

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        if self._cuda:
            cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
            self._flushed = torch.empty(max(4 * cache, _LEAST_FLUSH), dtype=torch.int8, device=device)

    def samples(self, run: Callable[[], object], count: int, refresh: Callable[[], None] | None = None) -> list[float]:
        """Seconds of ``count`` calls; ``refresh`` is called before each and not timed."""
        return self._events(run, count, refresh) if self._cuda else self._clock(run, count, refresh)

    def seconds(self, run: Callable[[], object], count: int = 20) -> float:
        """Median of ``count`` calls after some that are not counted."""
        for _ in range(_WARM_UPS):
            run()
        return median(self.samples(run, count))

    def _events(self, run, count, refresh) -> list[float]:
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for start, end in pairs:
            if refresh:
                refresh()
            torch.cuda._sleep(_WAIT_CYCLES)
            self._flushed.zero_()
            start.record()
            run()
            end.record()
        torch.cuda.synchronize(self._flushed.device)
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    def _clock(self, run, count, refresh) -> list[float]:
        taken = []
        for _ in range(count):
            if refresh:
                refresh()
            started = perf_counter()
            run()
            taken.append(perf_counter() - started)
        return taken
