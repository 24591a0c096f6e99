"""Runs the jobs of one block and writes a line of JSON per job, so that nothing is lost when it is stopped."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import torch

from fourreal_kernels.ops import triton_support

from .block import Absent, Block, Settings

# After an error of the GPU no later call of the process works: a new process goes on with the next job.
GPU_FAILED = 70
_SIGNS = ("CUDA error", "illegal memory access", "unspecified launch failure", "misaligned address")
_LONGEST_REASON = 800


def run_block(block: Block, settings: Settings, target: Path, shard: int, shards: int, skip: int) -> int:
    """Append the results of a shard's jobs after the first ``skip`` to ``target``; returns the exit status."""
    placed = torch.device(settings.device) if block.own_device else nullcontext()
    with target.open("a") as lines, placed, _interpreter():
        mine = islice(enumerate(block.jobs(settings)), shard, None, shards)
        for index, (name, job) in islice(mine, skip, None):
            torch.manual_seed(index)
            started = perf_counter()
            result, gpu_failed = _outcome(job, settings)
            _write(lines, {"name": name} | result | {"seconds": round(perf_counter() - started, 3)})
            if gpu_failed:
                return GPU_FAILED
    return 0


def _interpreter() -> AbstractContextManager:
    """With TRITON_INTERPRET=1, which a rehearsal can be run with, bfloat16 as the hardware computes it."""
    if not triton_support.interpreting():
        return nullcontext()
    from .helpers import interpreted_bfloat16

    return interpreted_bfloat16().corrected()


def _outcome(job: Callable[[], dict[str, Any]], settings: Settings) -> tuple[dict[str, Any], bool]:
    """The result with its status, and whether the GPU has failed."""
    try:
        result = {"status": "ok"} | job()
        if settings.on_gpu:
            torch.cuda.synchronize()
        return result, False
    except (NotImplementedError, Absent) as error:
        return {"status": "absent", "reason": _text(error)}, False
    except AssertionError as error:
        return {"status": "failed", "reason": _text(error)}, False
    except Exception as error:  # the other jobs still run
        text = f"{type(error).__name__}: {_text(error)}"
        where = "".join(traceback.format_tb(error.__traceback__)[-3:])
        return {"status": "error", "reason": text, "where": where}, any(sign in text for sign in _SIGNS)


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__


def _write(lines: TextIO, result: dict[str, Any]) -> None:
    lines.write(json.dumps(_finite(result), allow_nan=False, default=str) + "\n")
    lines.flush()


def _finite(value: Any) -> Any:
    """The same with infinities and NaN, which JSON lacks, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
