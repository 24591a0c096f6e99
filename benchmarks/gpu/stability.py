"""The same bits every time: repeated calls, and replays of a captured CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .block import Job, Result, Settings
from .helpers import op_numerics
from .operations import MEDIUM, TINY, Operation, operations

_REPEATS = 50


def repeat_jobs(settings: Settings) -> Iterator[Job]:
    """50 calls on the same inputs, compared bit for bit."""
    repeats = 3 if settings.small else _REPEATS
    for backend, operation in _each(settings):
        yield f"{backend}: {operation.name}", lambda b=backend, o=operation: _repeat(o, b, settings, repeats)


def graph_jobs(settings: Settings) -> Iterator[Job]:
    """Captured once, replayed on other inputs: bitwise what a plain call gives."""
    for backend, operation in _each(settings):
        yield f"{backend}: {operation.name}", lambda b=backend, o=operation: _replay(o, b, settings)


def _each(settings: Settings) -> Iterator[tuple[str, Operation]]:
    return ((backend, operation) for backend in settings.backends for operation in operations())


def _build(operation: Operation, backend: str, settings: Settings):
    shape = TINY if settings.small else MEDIUM
    return operation.build(backend, shape, torch.float32 if settings.small else torch.bfloat16)


def _repeat(operation: Operation, backend: str, settings: Settings, repeats: int) -> Result:
    _, run = _build(operation, backend, settings)
    first = run()
    for index in range(1, repeats):
        for got, expected in zip(run(), first, strict=True):
            assert op_numerics.bitwise_equal(got, expected), f"call {index} differs from the first"
    return {"repeats": repeats}


def _replay(operation: Operation, backend: str, settings: Settings) -> Result:
    inputs, run = _build(operation, backend, settings)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    for x in inputs:
        x.copy_(torch.randn_like(x))
    graph.replay()
    replayed = [x.clone() for x in results]
    for got, expected in zip(replayed, run(), strict=True):
        assert op_numerics.bitwise_equal(got, expected), "the replay differs from a plain call"
    return {}
