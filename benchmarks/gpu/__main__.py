"""``python3 -m benchmarks.gpu check`` and ``bench``, with the repository in the search path and nothing installed.

The document goes into ``--out``, by default ``$OUT`` where it is set, else ``benchmarks/results``: for a check
``gpu-check-<GPU>-<date>.json``, for a benchmark a record that ``fourreal bench --report`` reads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from .block import Settings
from .child import run_block
from .document import run_and_write
from .runs import RUNS

_SECONDS = 520.0
_RESULTS = Path(__file__).parents[1] / "results"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.gpu", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for kind in RUNS:
        added = commands.add_parser(kind, allow_abbrev=False)
        added.add_argument("--out", type=Path, help="folder of the document and the log")
        added.add_argument("--seconds", type=float, default=_SECONDS, help=f"for the whole run (default: {_SECONDS:g})")
        added.add_argument("--only", action="append", metavar="BLOCK", help="only this block, may be repeated")
        added.add_argument("--backend", action="append", metavar="B", help="of ours (default: triton and cuda)")
        added.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny shapes")
        added.add_argument("--list", action="store_true", help="list the blocks and do nothing else")
    block = commands.add_parser("block")
    block.add_argument("kind", choices=RUNS)
    block.add_argument("name")
    block.add_argument("--results", type=Path, required=True)
    for name in ("--shard", "--shards", "--skip"):
        block.add_argument(name, type=int, required=True)
    block.add_argument("--settings", type=json.loads, required=True)
    return parser


def main() -> int:
    """Exit status 0 when all is well, 1 when a block is not, 2 when there is no GPU or a block is unknown."""
    arguments = _parser().parse_args()
    if arguments.command == "block":
        block = next(block for block in RUNS[arguments.kind] if block.name == arguments.name)
        settings = Settings(**arguments.settings | {"backends": tuple(arguments.settings["backends"])})
        return run_block(block, settings, arguments.results, arguments.shard, arguments.shards, arguments.skip)
    blocks = RUNS[arguments.command]
    if arguments.list:
        print("\n".join(f"{block.name} (at most {block.seconds:g} s)" for block in blocks))
        return 0
    unknown = set(arguments.only or ()) - {block.name for block in blocks}
    if unknown:
        return _refuse(f"--only: got {', '.join(sorted(unknown))}, see --list")
    if not arguments.rehearse and not torch.cuda.is_available():
        return _refuse("torch finds no GPU; --rehearse tries everything on the CPU with tiny shapes")
    device, default = ("cpu", ("reference",)) if arguments.rehearse else ("cuda", ("triton", "cuda"))
    settings = Settings(device, tuple(arguments.backend or default), small=arguments.rehearse)
    chosen = [block for block in blocks if not arguments.only or block.name in arguments.only]
    folder = arguments.out or Path(os.environ.get("OUT") or _RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    return run_and_write(arguments.command, chosen, settings, arguments.seconds, folder)


def _refuse(message: str) -> int:
    print(f"gpu: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
