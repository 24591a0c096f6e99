"""Runs suites and keeps their record."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch

from .case import Case, Context
from .ceilings import Ceilings, measure_ceilings
from .measure import add_ceilings, measure_case
from .peers.compiled import prepare_compiler
from .record import new_record
from .suites import SUITES
from .timing import QUICK, TimingSettings

# Our backends that are timed on each kind of device unless others are named.
DEFAULT_BACKENDS = {"cpu": ("cpu",), "cuda": ("triton", "cuda")}


@dataclass(frozen=True)
class RunSettings:
    """What a run measures.

    Attributes:
        suites: names in :data:`SUITES`.
        backends: our backends; those of the device when empty.
        quick: few small cases, nothing compiled.
        threads: of torch; unchanged when None.
        case: only cases whose name contains this.
    """

    suites: tuple[str, ...]
    backends: tuple[str, ...] = ()
    quick: bool = False
    threads: int | None = None
    device: str = "cpu"
    case: str = ""


def chosen_cases(suite: str, quick: bool, text: str = "") -> list[Case]:
    """The cases of a suite whose names contain ``text``."""
    return [case for case in SUITES[suite].cases(quick) if text in case.name]


def run_suites(settings: RunSettings, keep: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Measure every case of the suites; progress goes to stderr.

    Args:
        keep: given the record after each suite, complete so far, so that an interrupted run is not lost.

    Returns:
        The record, see ``record.py``.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    backends = settings.backends or DEFAULT_BACKENDS[device.type]
    context = Context(device, backends, compile=not settings.quick)
    timing = QUICK if settings.quick else TimingSettings()
    record = new_record(asdict(settings) | {"backends": backends, "timing": asdict(timing)}, device)
    ceilings = measure_ceilings(device)
    started = perf_counter()
    for suite in settings.suites:
        measured = _run_suite(suite, settings, context, timing)
        record["cases"] += measured
        ceilings = ceilings.merged(measure_ceilings(device))
        _finish(record, ceilings, perf_counter() - started)
        if keep:
            keep(record)
    return record


def _finish(record: dict[str, Any], ceilings: Ceilings, seconds: float) -> None:
    record["ceilings"] = ceilings.to_dict()
    record["seconds"] = round(seconds, 1)
    for case in record["cases"]:
        add_ceilings(case, ceilings)


def _run_suite(
    suite: str, settings: RunSettings, context: Context, timing: TimingSettings
) -> list[dict[str, Any]]:
    cases = chosen_cases(suite, settings.quick, settings.case)
    measured = []
    if context.compile:
        prepare_compiler()
    for index, case in enumerate(cases):
        begun = perf_counter()
        measured.append(measure_case(case, context, timing))
        gc.collect()
        _progress(f"[{suite} {index + 1}/{len(cases)}] {case.name} ({perf_counter() - begun:.1f} s)", measured[-1])
    return measured


def _progress(line: str, record: dict[str, Any]) -> None:
    print(line, file=sys.stderr)
    for name, provider in record["providers"].items():
        if provider["status"] == "ok":
            text = f"{provider['p50'] * 1e3:10.3f} ms  {_rate(provider)}"
        else:
            text = f"{provider['status']:>10}: {provider['reason']}"
        print(f"    {name:<36} {text}", file=sys.stderr, flush=True)


def _rate(provider: dict[str, Any]) -> str:
    units = {"gflops": "GFLOP/s", "gbs": "GB/s"}
    return "  ".join(f"{provider[key]:8.1f} {unit}" for key, unit in units.items() if key in provider)
