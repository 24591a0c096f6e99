"""Runs blocks one after the other, each in a process with a time limit, within a time limit for all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from .block import Block, Settings
from .child import GPU_FAILED

_LEAST_SECONDS = 10
_MOST_STARTS = 4
_TAIL = 3000
BAD = ("failed", "error", "stopped", "crashed", "not run")
_SEVERITY = ("ok", "not run", "stopped", "crashed")

Keep = Callable[[list[dict[str, Any]]], None]


def run_blocks(kind: str, blocks: Sequence[Block], settings: Settings, seconds: float, log: Path, keep: Keep) -> None:
    """Run ``blocks``; ``keep`` receives the blocks done so far after each one.

    Args:
        kind: the name of the run, by which a child process finds the block.
        seconds: for all blocks.
        log: receives what the processes print.
    """
    deadline = monotonic() + seconds
    done: list[dict[str, Any]] = []
    for block in blocks:
        if block.gpu_only and not settings.on_gpu:
            outcome = {"name": block.name, "status": "absent", "reason": "needs a GPU", "jobs": []}
        else:
            outcome = _run(kind, block, settings, deadline, log)
        done.append(outcome)
        print(summary(outcome), flush=True)
        keep(done)


def summary(outcome: dict[str, Any]) -> str:
    """One line of a block, and one for each of its jobs that is not well."""
    counts = Counter(job["status"] for job in outcome["jobs"])
    line = f"{outcome['name']}: {outcome['status']} ({outcome.get('seconds', 0):.0f} s) "
    line += ", ".join(f"{count} {status}" for status, count in counts.items())
    bad = [f"    {job['name']}: {job['status']}: {job['reason'][:200]}" for job in outcome["jobs"]
           if job["status"] in BAD]
    reason = [f"    {outcome['reason'][-400:]}"] if outcome.get("reason") else []
    return "\n".join([line, *reason, *bad[:10]])


@dataclass(frozen=True)
class _Shard:
    """One process's part of a block."""

    kind: str
    block: Block
    settings: Settings
    index: int
    shards: int


def _run(kind: str, block: Block, settings: Settings, deadline: float, log: Path) -> dict[str, Any]:
    started = monotonic()
    limit = min(started + block.seconds, deadline)
    shards = 1 if settings.small else block.shards
    parts = [_Shard(kind, block, settings, index, shards) for index in range(shards)]
    with TemporaryDirectory() as folder, ThreadPoolExecutor(shards) as pool:
        outcomes = list(pool.map(lambda part: _run_shard(part, limit, Path(folder)), parts))
        with log.open("ab") as whole:
            for path in sorted(Path(folder).glob("*.log")):
                whole.write(f"\n== {block.name}, {path.stem}\n".encode() + path.read_bytes())
    status = max((outcome["status"] for outcome in outcomes), key=_SEVERITY.index)
    reasons = [outcome["reason"] for outcome in outcomes if "reason" in outcome]
    jobs = [job for outcome in outcomes for job in outcome["jobs"]]
    states = {job["status"] for job in jobs}
    if status == "ok" and states & set(BAD):
        status = "failed"
    elif status == "ok" and states <= {"absent"}:
        status = "absent"
        reasons = [job["reason"] for job in jobs] or ["it has no jobs"]
    reason = {"reason": reasons[0]} if reasons else {}
    return {"name": block.name, "status": status} | reason | {"seconds": round(monotonic() - started, 1), "jobs": jobs}


def _run_shard(part: _Shard, limit: float, folder: Path) -> dict[str, Any]:
    """Run its process, and another one for the jobs that are left after an error of the GPU."""
    outcome: dict[str, Any] = {"status": "ok", "jobs": []}
    results = folder / f"{part.index}.json"
    results.touch()
    for _ in range(_MOST_STARTS):
        left = limit - monotonic()
        if left < min(_LEAST_SECONDS, part.block.seconds):
            return outcome | {"status": "stopped" if outcome["jobs"] else "not run", "reason": "no time was left"}
        status, tail = _process(part, results, len(outcome["jobs"]), left, folder / f"{part.index}.log")
        outcome["jobs"] = [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")]
        if status is None:
            return outcome | {"status": "stopped", "reason": f"at its limit, after {left:.0f} s"}
        if status == 0:
            return outcome
        if status != GPU_FAILED:
            return outcome | {"status": "crashed", "reason": f"exit status {status}: {tail}"}
    return outcome | {"status": "crashed", "reason": f"the GPU failed in {_MOST_STARTS} processes"}


def _process(part: _Shard, results: Path, skip: int, seconds: float, log: Path) -> tuple[int | None, str]:
    """Exit status, None when it was stopped at its limit, and the end of what it printed."""
    command = _command(part, results, skip)
    with log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    return status, log.read_bytes()[start:][-_TAIL:].decode(errors="replace")


def _command(part: _Shard, results: Path, skip: int) -> list[str]:
    return [
        *(sys.executable, "-m", "benchmarks.gpu", "block", part.kind, part.block.name, "--results", str(results)),
        *("--shard", str(part.index), "--shards", str(part.shards), "--skip", str(skip)),
        *("--settings", json.dumps(asdict(part.settings))),
    ]


def _end(process: subprocess.Popen) -> None:
    """End the process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
