"""A small record, and small cases with providers that are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.case import Case, Context, Workload
from benchmarks.check import deviation
from benchmarks.record import new_record
from fourreal_kernels.data.threads import one_thread

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def single_threaded() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def context() -> Context:
    return Context(CPU, ("reference",), compile=False)


@pytest.fixture
def doubling() -> Case:
    """2 x by a right provider, a wrong one, one of NaN, one that raises and one that is absent."""
    x = torch.linspace(-1, 1, 1000)

    def build(context: Context) -> Workload:
        work = Workload(lambda results: deviation(results, (2 * x.double(),)), absent={"ours:cpu": "not built"})
        work.peer("right", lambda: (2 * x,))
        work.peer("wrong", lambda: (2 * x + 1e-3,))
        work.peer("nan", lambda: (x * float("nan"),))
        work.peer("raising", _raise)
        work.peer("other shape", lambda: (2 * x[1:],))
        return work

    return Case("toy", "double", {"N": 1000}, build, main_peer="right", flops=1000.0, bytes=8000.0)


def _raise() -> tuple[torch.Tensor, ...]:
    raise RuntimeError("no such\ninstruction")


def _provider(seconds: list[float], error: float = 1e-7, **more: Any) -> dict[str, Any]:
    middle = sorted(seconds)[len(seconds) // 2]
    return {
        "status": "ok", "error": error, "relative_error": error, "rms_error": error / 3, "peak_bytes": 4_000_000,
        "p20": min(seconds), "p50": middle, "p80": max(seconds), "samples": seconds,
        "gflops": 200.0, "fma_percent": 60.0, "gbs": 1.0, "copy_percent": 5.0,
    } | more


@pytest.fixture
def make_record() -> Callable[..., dict[str, Any]]:
    def make(*cases: dict[str, Any]) -> dict[str, Any]:
        """A record of these cases."""
        ceilings = {"fma_gflops": 300.0, "fma_source": "test", "copy_gbs": 20.0, "copy_source": "test"}
        return new_record({"quick": True}, CPU) | {"ceilings": ceilings, "cases": list(cases)}

    return make


@pytest.fixture
def make_case() -> Callable[..., dict[str, Any]]:
    def make(tokens: int, ours: list[float], peer: list[float], **changes: Any) -> dict[str, Any]:
        """Time attention at D64 with ours and its main peer; ``changes`` replace keys of the case."""
        return {
            "name": f"axis_attention / tn / N{tokens}", "suite": "attention", "op": "axis_attention", "axes": "tn",
            "variant": "", "sizes": {"B": 1, "V": 8, "T": 8, "N": tokens, "H": 8, "D": 64}, "dtype": "float32",
            "direction": "forward", "output": "fresh", "flops": 1e9 * tokens, "bytes": 1e6 * tokens, "rounds": 3,
            "main_peer": "sdpa, stored as lines",
            "providers": {"ours:cpu": _provider(ours), "sdpa, stored as lines": _provider(peer)},
        } | changes

    return make
