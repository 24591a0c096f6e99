"""Parameters, seconds and memory of the modes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

import torch

from fourreal_kernels.model import GridConfig, GridPipeline, GridTransformer

from ..memory import peak_bytes

ROUNDS = 5


def parameters(config: GridConfig) -> dict[str, int]:
    """All parameters, and those beside the base."""
    model = GridTransformer(config)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "beside_the_base": sum(p.numel() for p in model.sync_parameters()),
    }


def seconds_and_memory(pipelines: Mapping[str, GridPipeline], steps: int) -> dict[str, dict[str, float]]:
    """Median seconds of generating one grid, the modes in turn, and the peak of memory of one more."""
    config = next(iter(pipelines.values())).model.config
    clips = [torch.rand(n, 3, config.height, config.width) for n in (config.times, config.views)]
    times: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(1 + ROUNDS):
        for name, pipeline in pipelines.items():
            start = time.perf_counter()
            pipeline(*clips, steps=steps, progress=False)
            times[name].append(time.perf_counter() - start)
    result = {}
    for name, pipeline in pipelines.items():
        _, peak = peak_bytes(lambda run=pipeline: run(*clips, steps=steps, progress=False), torch.device("cpu"))
        result[name] = {"seconds": median(times[name][1:]), "peak_bytes": peak}
    return result
