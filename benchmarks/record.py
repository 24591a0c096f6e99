"""The record of a run: its JSON document, schema version 1.

Top level: ``schema``, ``created``, ``seconds``, ``commit``, ``changed`` (files differ from the commit), ``machine``,
``versions``, ``settings``, ``ceilings``, ``cases``. A case has what identifies it (suite, op, axes, variant, sizes,
dtype, direction, output), its ``flops`` and ``bytes``, the ``main_peer``, the number of ``rounds`` and ``providers``:
by name, ``status`` "ok", "failed" or "absent" (with ``reason``); ``error``, ``relative_error`` and ``rms_error``
against float64; ``peak_bytes``; and for "ok" ``p20``, ``p50``, ``p80`` and ``samples`` in seconds, ``gflops``, ``gbs``
and their percent of the ceilings. Samples of equal index are of the same round.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourreal_kernels import native
from fourreal_kernels.cli.environment import cpu_name, package_version, usable_cores
from fourreal_kernels.version import __version__

SCHEMA = 1
ROOT = Path(__file__).parents[1]
_KEYS = ("schema", "created", "commit", "machine", "versions", "settings", "ceilings", "cases")
_CASE_KEYS = ("name", "suite", "op", "sizes", "dtype", "direction", "output", "main_peer", "providers")


class RecordError(ValueError):
    """A file that is not the record of a run."""


def new_record(settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The record of a run that has no cases yet."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": _machine(device),
        "versions": _versions(),
        "settings": settings,
        "ceilings": {},
        "cases": [],
    }


def default_name(record: dict[str, Any]) -> str:
    """``<machine>-<date>.json``."""
    machine = record["machine"]
    name = machine["gpu"] or f"{machine['cpu']}-{machine['threads']}threads"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{slug}-{record['created'][:10]}.json"


def write_record(record: dict[str, Any], path: Path) -> None:
    """Write it whole or not at all: renamed into place."""
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_record(path: Path) -> dict[str, Any]:
    """Read and check a record.

    Raises:
        OSError: the file cannot be read.
        RecordError: it is not the record of a run, or of another schema version.
    """
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise RecordError(f"{path}: not JSON ({error})") from error
    check_record(record, str(path))
    return record


def check_record(record: Any, source: str) -> None:
    """Raise RecordError unless ``record`` has the keys of the schema."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise RecordError(f"{source}: not a benchmark record of schema {SCHEMA}")
    missing = [key for key in _KEYS if key not in record]
    for case in record.get("cases", ()):
        missing += [f"cases[].{key}" for key in _CASE_KEYS if key not in case]
    if missing:
        raise RecordError(f"{source}: {', '.join(sorted(set(missing)))} missing")


def join_records(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The cases of several records of one machine in one; a case measured again replaces the earlier one.

    ``sources`` of the result says which suites come from which commit; the rest is of the last record.

    Raises:
        RecordError: the machines, threads or versions differ.
    """
    first = records[0]
    if len(records) == 1:
        return first
    for record in records[1:]:
        for key in ("machine", "versions"):
            if record[key] != first[key]:
                raise RecordError(f"records to join: their {key} differ")
    cases = {case["name"]: (case, record) for record in records for case in record["cases"]}
    sources = [
        {
            "commit": record["commit"],
            "created": record["created"],
            "suites": sorted({case["suite"] for case, origin in cases.values() if origin is record}),
        }
        for record in records
    ]
    return records[-1] | {
        "cases": [case for case, _ in cases.values()],
        "seconds": sum(record["seconds"] for record in records),
        "sources": sources,
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "architecture": platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def _versions() -> dict[str, Any]:
    library = native.cpu_library()
    return {
        "fourreal_kernels": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "triton": package_version("triton"),
        "compiler": library.build_info()["compiler"] if library else None,
        "instruction_set": library.instruction_set() if library else None,
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "platform": platform.platform(),
    }
