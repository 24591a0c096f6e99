"""Configurations of the Triton kernels: block sizes, warps and stages, as data.

Each kernel ships ``fourreal_kernels/tuned/<kernel>.json``::

    {"kernel": name, "configs": [{"arch": "sm_80", "head_dim": [1, 64], "length": [1, 1024], "dtype_bytes": 2,
                                  "config": {"BLOCK_Q": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}}, ...]}

Ranges are inclusive; one that is left out takes every value. The first entry that fits is used. ``fourreal tune``
writes files of the same form into :func:`cache_dir`, whose entries go before the shipped ones. Nothing is measured
when an operator runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parent / "tuned"

# Configurations are written for these chips. What matters to one is the shared memory of a block and the matrix
# instructions: sm_86 and sm_89 have the 99 KB of sm_120, not the 163 KB of sm_80; sm_110 has the 227 KB of sm_100.
_ALIKE = {"sm_86": "sm_120", "sm_89": "sm_120", "sm_87": "sm_80"}
_BUCKET = ("arch", "head_dim", "length", "dtype_bytes")

_forced: dict[str, dict[str, int]] = {}


def cache_dir() -> Path:
    """Where ``fourreal tune`` keeps its results: ``$FOURREAL_CACHE``, else ``fourreal_kernels`` in the user's cache."""
    if named := os.environ.get("FOURREAL_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fourreal_kernels"


def tuned_file(kernel: str) -> Path:
    """The file of the user's own configurations of a kernel; it need not exist."""
    return cache_dir() / "tuned" / f"{kernel}.json"


def config(
    kernel: str, *, arch: str, head_dim: int = 0, length: int = 0, dtype_bytes: int = 2
) -> dict[str, int]:
    """The configuration with which to launch ``kernel``.

    Args:
        kernel: name of a kernel, as its JSON file.
        arch: ``"sm_90"``, ..., or ``"interpreter"``. A chip without entries uses those of the nearest older one.
        head_dim, length: what picks the bucket (keys per query, or what the kernel's file means by it).
        dtype_bytes: bytes of an element.

    Raises:
        LookupError: the kernel ships no configuration for these arguments.
        ValueError: a file of the user's cache is not in the form above.
    """
    return dict(_forced.get(kernel) or _config(kernel, arch, head_dim, length, dtype_bytes))


def shipped_entries(kernel: str, arch: str) -> list[dict[str, Any]]:
    """The shipped entries that ``arch`` chooses from, in order; none for a kernel without a file."""
    shipped = _entries(SHIPPED / f"{kernel}.json")
    written_for = _nearest(arch, {entry["arch"] for entry in shipped})
    return [entry for entry in shipped if entry["arch"] == written_for]


@contextmanager
def forced(kernel: str, configuration: dict[str, int]) -> Iterator[None]:
    """While this is open, :func:`config` answers ``configuration`` to every call for ``kernel``, in all threads."""
    before = _forced.get(kernel)
    _forced[kernel] = configuration
    try:
        yield
    finally:
        if before is None:
            del _forced[kernel]
        else:
            _forced[kernel] = before


def save(kernel: str, entries: list[dict[str, Any]]) -> Path:
    """Write entries into the user's file of ``kernel``; those of other chips and buckets stay.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.
        ValueError: an entry, or the file that is there, is not in the form above.
    """
    for entry in entries:
        _check(entry)
    file = tuned_file(kernel)
    file.parent.mkdir(parents=True, exist_ok=True)
    written = {_bucket(entry) for entry in entries}
    kept = [entry for entry in _read(file) if _bucket(entry) not in written]
    partial = file.with_name(f".partial-{os.getpid()}-{file.name}")
    try:
        partial.write_text(json.dumps({"kernel": kernel, "configs": entries + kept}, indent=1) + "\n")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    forget()
    return file


def forget() -> None:
    """Read the files again at the next call (``fourreal tune`` has written, or the cache directory has changed)."""
    _config.cache_clear()
    _entries.cache_clear()


@cache
def _config(kernel: str, arch: str, head_dim: int, length: int, dtype_bytes: int) -> dict[str, int]:
    wanted = {"head_dim": head_dim, "length": length, "dtype_bytes": dtype_bytes}
    found = _first(shipped_entries(kernel, arch), wanted)
    if found is None:
        raise LookupError(
            f"kernel: {kernel!r} ships no configuration for {arch}, {wanted}; "
            f"expected an entry in {SHIPPED.name}/{kernel}.json"
        )
    tuned = _first([entry for entry in _entries(tuned_file(kernel)) if entry["arch"] == arch], wanted)
    # of another version of the kernel when its parameters differ
    return tuned if tuned is not None and tuned.keys() == found.keys() else found


def _bucket(entry: dict[str, Any]) -> str:
    return json.dumps([entry.get(name) for name in _BUCKET])


@cache
def _entries(file: Path) -> list[dict[str, Any]]:
    return _read(file)


def _read(file: Path) -> list[dict[str, Any]]:
    """The entries of a file, none where there is no file."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        return []
    try:
        entries = json.loads(text)["configs"]
        for entry in entries:
            _check(entry)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: not a file of kernel configurations ({type(error).__name__}: {error}); "
            "delete it, or write it again with `fourreal tune`"
        ) from None
    return entries


def _check(entry: dict[str, Any]) -> None:
    if not isinstance(entry["arch"], str) or not entry["config"]:
        raise ValueError(f"an entry without arch or config: {entry}")
    for name, value in entry["config"].items():
        if type(value) is not int:
            raise ValueError(f"config {name}: expected an integer, got {value!r}")
    for name in ("head_dim", "length"):
        low, high = entry.get(name, (0, 0))
        if low > high:
            raise ValueError(f"{name}: an empty range [{low}, {high}]")


def _first(entries: list[dict[str, Any]], wanted: dict[str, int]) -> dict[str, int] | None:
    return next((entry["config"] for entry in entries if _fits(entry, wanted)), None)


def _fits(entry: dict[str, Any], wanted: dict[str, int]) -> bool:
    for name in ("head_dim", "length"):
        if name in entry and not entry[name][0] <= wanted[name] <= entry[name][1]:
            return False
    return entry.get("dtype_bytes", wanted["dtype_bytes"]) == wanted["dtype_bytes"]


def _nearest(arch: str, known: set[str]) -> str | None:
    """``arch`` where it has entries, else the chip whose configurations it can run."""
    arch = _ALIKE.get(arch, arch) if arch not in known else arch
    if arch in known or not arch.startswith("sm_"):
        return arch
    number = int(arch.removeprefix("sm_"))
    older = [int(name.removeprefix("sm_")) for name in known if name.startswith("sm_")]
    return f"sm_{max(n for n in older if n <= number)}" if any(n <= number for n in older) else None
