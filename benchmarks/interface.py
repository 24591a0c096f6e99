"""What the command line uses of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .record import default_name, join_records, read_record, write_record
from .report import report_text, write_report
from .runner import RunSettings, chosen_cases, run_suites
from .suites import SUITES

__all__ = [
    "SUITES",
    "count_cases",
    "default_name",
    "join_records",
    "read_record",
    "report_text",
    "run",
    "write_record",
    "write_report",
]


def run(*, keep: Callable[[dict[str, Any]], None] | None = None, **settings: Any) -> dict[str, Any]:
    """Run suites; the arguments are those of :class:`~benchmarks.runner.RunSettings` and of ``run_suites``."""
    return run_suites(RunSettings(**settings), keep)


def count_cases(suites: tuple[str, ...], quick: bool, text: str) -> int:
    """How many cases of the suites have ``text`` in their names."""
    return sum(len(chosen_cases(suite, quick, text)) for suite in suites)
