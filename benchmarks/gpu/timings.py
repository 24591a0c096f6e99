"""The blocks of ``gpu-bench``: jobs that check and time cases, and the ceilings of the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from fourreal_kernels.gpu_timing import ColdTimer

from ..case import Case, Context
from ..ceilings import Ceilings
from ..measure import measure_case
from ..peers.compiled import prepare_compiler
from ..timing import QUICK
from .block import Job, Result, Settings
from .cold import ColdSampler

_MATRIX, _COPY_BYTES = 8192, 2 * 2**30
_SMALL_MATRIX, _SMALL_COPY_BYTES = 64, 2**20


def case_jobs(
    cases: Callable[[bool], Iterable[Case]], compile: bool = False
) -> Callable[[Settings], Iterator[Job]]:
    """A job per case; ``compile`` lets peers made by torch.compile take part."""

    def jobs(settings: Settings) -> Iterator[Job]:
        device = torch.device(settings.device)
        context = Context(device, settings.backends, compile=compile and not settings.small)
        if context.compile:
            prepare_compiler()
        sampler = ColdSampler(device, 3) if settings.small else ColdSampler(device)
        for case in cases(settings.small):
            yield case.name, lambda c=case: _measure(c, context, sampler)

    return jobs


def _measure(case: Case, context: Context, sampler: ColdSampler) -> Result:
    record = measure_case(case, context, QUICK, sampler)
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
    wrong = [f"{name}: {provider['reason']}" for name, provider in record["providers"].items()
             if name.startswith("ours:") and provider["status"] == "failed"]
    result: Result = {"case": record}
    return result | ({"status": "failed", "reason": "; ".join(wrong)} if wrong else {})


def ceiling_jobs(settings: Settings) -> Iterator[Job]:
    """The rates of a large bfloat16 matrix product of random numbers and of a copy."""
    yield "matrix product and copy", lambda: {"ceilings": measure_gpu_ceilings(settings).to_dict()}


def measure_gpu_ceilings(settings: Settings) -> Ceilings:
    """GFLOP/s and GB/s, medians of single calls."""
    device = torch.device(settings.device)
    size, copied = (_SMALL_MATRIX, _SMALL_COPY_BYTES) if settings.small else (_MATRIX, _COPY_BYTES)
    timer = ColdTimer(device)
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    out = a @ b
    product = timer.seconds(lambda: torch.mm(a, b, out=out), 10)
    source = torch.randn(copied // 4, device=device)
    target = torch.empty_like(source)
    copy = timer.seconds(lambda: target.copy_(source), 10)
    return Ceilings(
        2 * size**3 / product / 1e9, f"torch.mm of {size} x {size} bfloat16",
        2 * copied / copy / 1e9, f"torch copy_ of {copied // 2**20} MiB",
    )
