"""Benchmark the operators against PyTorch's own forms."""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import fourreal_kernels

from ..data.staging import nearest_folder
from ..dispatch import BACKENDS
from .arguments import add_device, check_device, integer, path
from .errors import UserError, user_errors

_PACKAGE = "benchmarks"
_MOST_THREADS = 1024


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``fourreal bench``."""
    parser.add_argument(
        "--suite", action="append", metavar="S",
        help="a suite to run, may be repeated: attention, pointwise, exchange, norm_rope, block, "
        "integrations, generate, growth (default: all)",
    )
    parser.add_argument("--case", default="", metavar="TEXT", help="only cases whose name contains TEXT")
    parser.add_argument(
        "--json", type=path, metavar="PATH",
        help="file that receives the record, or an existing folder for <machine>-<date>.json",
    )
    parser.add_argument("--quick", action="store_true", help="few small cases, briefly, nothing compiled")
    parser.add_argument("--threads", type=integer(1, _MOST_THREADS), metavar="N", help="threads (default: torch's)")
    add_device(parser)
    parser.add_argument(
        "--backend", action="append", choices=BACKENDS,
        help="a backend of ours to time, may be repeated (default: the compiled ones of the device)",
    )
    parser.add_argument(
        "--report", type=path, action="append", metavar="JSON",
        help="run nothing: print the tables of this record, may be repeated to join records of one machine",
    )
    parser.add_argument(
        "--out", type=path, metavar="DIR", help="with --report: folder that receives report.md and the plots"
    )


def run(arguments: Namespace) -> None:
    """Run the suites and print the report, or print the report of a record."""
    benchmarks = _find("benchmarks.interface")
    if arguments.report:
        _report(arguments, benchmarks)
        return
    if arguments.out:
        raise UserError("argument --out: expected only with --report (the record of a run goes to --json)")
    suites = _suites(arguments.suite, benchmarks)
    device = str(check_device(arguments.device))
    if not benchmarks.count_cases(suites, arguments.quick, arguments.case):
        raise UserError(f"argument --case: no case of the suites has {arguments.case!r} in its name")
    if arguments.json:
        _check_writable(arguments.json)
    written: list[Path] = []
    record = benchmarks.run(
        suites=suites, backends=tuple(arguments.backend or ()), quick=arguments.quick, threads=arguments.threads,
        device=device, case=arguments.case, keep=_writer(arguments.json, benchmarks, written),
    )
    print(benchmarks.report_text(record))
    for target in written:
        print(f"wrote {target}")


def _writer(
    place: Path | None, benchmarks: ModuleType, written: list[Path]
) -> Callable[[dict[str, Any]], None] | None:
    """Writes the record to ``place``, a file or a folder, and puts the path into ``written``."""
    if place is None:
        return None

    def write(record: dict[str, Any]) -> None:
        target = place / benchmarks.default_name(record) if place.is_dir() else place
        with user_errors(OSError, prefix="argument --json"):
            benchmarks.write_record(record, target)
        written[:] = [target]

    return write


def _find(module: str) -> ModuleType:
    """The benchmarks of the source checkout that this package is part of.

    Raises:
        UserError: the package was installed without them.
    """
    root = Path(fourreal_kernels.__file__).resolve().parents[1]
    if not (root / _PACKAGE / "interface.py").is_file():
        raise UserError(
            f"the benchmarks are part of the source repository and there are none beside {root / 'fourreal_kernels'}; "
            "run from a checkout, or install it with `pip install -e .`"
        )
    loaded = sys.modules.get(_PACKAGE)
    if loaded is not None and Path(loaded.__file__ or "").resolve().parent != root / _PACKAGE:
        raise UserError(f"another package named {_PACKAGE!r} is loaded from {loaded.__file__}")
    if loaded is None:
        sys.path.insert(0, str(root))
    return import_module(module)


def _suites(names: list[str] | None, benchmarks: ModuleType) -> tuple[str, ...]:
    known = tuple(benchmarks.SUITES)
    for name in names or ():
        if name not in known:
            raise UserError(f"argument --suite: got {name!r}, expected one of {', '.join(known)}")
    return tuple(dict.fromkeys(names or known))


def _check_writable(target: Path) -> None:
    """Found out before minutes of measuring."""
    with user_errors(OSError, ValueError, prefix="argument --json"):
        folder = target if target.is_dir() else target.parent
        if not folder.is_dir():
            nearest_folder(folder)  # raises when a file is in the way
            raise UserError(f"argument --json: the folder {folder} does not exist")
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder):
            pass


def _report(arguments: Namespace, benchmarks: ModuleType) -> None:
    with user_errors(OSError, ValueError, prefix="argument --report"):
        records = [benchmarks.read_record(source) for source in arguments.report]
        record = benchmarks.join_records(records)
    if arguments.out:
        with user_errors(OSError, ValueError, ImportError, prefix="argument --out"):
            for name in benchmarks.write_report(record, arguments.out):
                print(f"wrote {name}")
    else:
        print(benchmarks.report_text(record))
