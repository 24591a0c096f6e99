"""The document of a run: written after each block, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from ..ceilings import Ceilings
from ..measure import add_ceilings
from ..record import default_name, new_record, write_record
from .block import Block, Settings
from .parent import BAD, run_blocks
from .targets import judge_gpu

Outcomes = list[dict[str, Any]]


def run_and_write(kind: str, blocks: Sequence[Block], settings: Settings, seconds: float, folder: Path) -> int:
    """Run the blocks and keep the document in ``folder``.

    Returns:
        The exit status: 0 when every block ran and is well; in a rehearsal, some blocks need not run.
    """
    started = monotonic()
    document = new_record(asdict(settings) | {"kind": f"gpu-{kind}"}, torch.device(settings.device))
    name = default_name(document)
    target = folder / (name if kind == "bench" else f"gpu-check-{name}")
    log = target.with_suffix(".log")
    log.write_bytes(b"")

    def keep(outcomes: Outcomes) -> None:
        document["seconds"] = round(monotonic() - started, 1)
        document.update(_of_check(outcomes) if kind == "check" else _of_bench(outcomes))
        write_record(document, target)

    run_blocks(kind, blocks, settings, seconds, log, keep)
    if kind == "bench":
        print("\n".join(judge_gpu(document)))
    print(f"wrote {target} and {log.name}, {document['seconds']:.0f} s")
    needless = {block.name for block in blocks if settings.small or block.optional}
    missing = [block for block in document["blocks"] if block["status"] == "absent" and block["name"] not in needless]
    return 1 if missing or any(block["status"] in BAD for block in document["blocks"]) else 0


def _of_check(outcomes: Outcomes) -> dict[str, Any]:
    return {"blocks": outcomes}


def _of_bench(outcomes: Outcomes) -> dict[str, Any]:
    """Cases and ceilings apart, as in every benchmark record; what else the jobs say stays with the blocks."""
    jobs = [job for outcome in outcomes for job in outcome["jobs"]]
    cases = [job["case"] for job in jobs if "case" in job]
    measured = [Ceilings(**job["ceilings"]) for job in jobs if "ceilings" in job]
    found: dict[str, Any] = {}
    if measured:
        ceilings = measured[0]
        for other in measured[1:]:
            ceilings = ceilings.merged(other)
        for case in cases:
            add_ceilings(case, ceilings)
        found["ceilings"] = ceilings.to_dict()
    blocks = [
        outcome | {"jobs": [{key: value for key, value in job.items() if key != "case"} for job in outcome["jobs"]]}
        for outcome in outcomes
    ]
    return found | {"cases": cases, "blocks": blocks}
