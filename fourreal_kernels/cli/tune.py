"""Measure configurations of the Triton kernels on this GPU and keep the fastest."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import torch

from .. import tuning
from ..gpu_timing import ColdTimer
from ..ops import triton_support
from ..ops.triton_cases import TuneTask, candidate_modules
from ..ops.triton_tuning import Outcome, measure
from .arguments import check_device
from .environment import package_version
from .errors import UserError, user_errors

_ENDLESS = 2**30


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``fourreal tune``."""
    parser.add_argument("--device", default="cuda", metavar="D", help="cuda or cuda:N (default: cuda)")
    parser.add_argument(
        "--kernel", action="append", metavar="K", help="only this kernel, may be repeated (default: all)"
    )


def run(arguments: Namespace) -> None:
    """Measure, print each result as it comes, and write each kernel's file when the kernel is done."""
    device = _gpu(arguments.device)
    with torch.cuda.device(device):
        _tune(device, arguments.kernel)


def _gpu(name: str) -> torch.device:
    device = check_device(name)
    if device.type != "cuda":
        raise UserError(f"argument --device: got {name!r}, expected cuda or cuda:N: it measures on a GPU")
    reason = triton_support.why_unavailable()
    if reason:
        raise UserError(f"tune: the Triton kernels cannot run here: {reason}")
    return device


def _tune(device: torch.device, kernels: list[str] | None) -> None:
    arch = triton_support.arch_of(device)
    tasks = _tasks(arch, kernels)
    _check_writable()
    timer = ColdTimer(device)
    origin = {
        "device": torch.cuda.get_device_name(device), "triton": package_version("triton"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(f"{origin['device']}, {arch}")
    for kernel, of_kernel in tasks.items():
        _tune_kernel(kernel, of_kernel, arch, timer, origin)


def _tune_kernel(
    kernel: str, tasks: list[TuneTask], arch: str, timer: ColdTimer, origin: dict[str, Any]
) -> None:
    entries = []
    for task in tasks:
        outcome = measure(task, arch, timer.seconds)
        print(_line(outcome), flush=True)
        entries.append(outcome.entry(arch, **origin))
    with user_errors(OSError, ValueError, prefix="tune"):
        print(f"wrote {tuning.save(kernel, entries)}")


def _tasks(arch: str, kernels: list[str] | None) -> dict[str, list[TuneTask]]:
    """The tasks per kernel, in the order of the operators."""
    found: dict[str, list[TuneTask]] = defaultdict(list)
    for module in candidate_modules().values():
        for task in module.tuning_candidates(arch):
            found[task.kernel].append(task)
    for kernel in kernels or ():
        if kernel not in found:
            raise UserError(f"argument --kernel: got {kernel!r}, expected one of {', '.join(sorted(found)) or 'none'}")
    return {kernel: tasks for kernel, tasks in found.items() if not kernels or kernel in kernels}


def _check_writable() -> None:
    """Found out before minutes of measuring."""
    with user_errors(OSError, prefix=f"tune: {tuning.cache_dir()} cannot be written (FOURREAL_CACHE names another)"):
        folder = tuning.tuned_file("").parent
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()


def _line(outcome: Outcome) -> str:
    task = outcome.task
    settings = " ".join(f"{name}={value}" for name, value in outcome.config.items())
    gain = outcome.shipped_seconds / outcome.seconds
    refused = f", {outcome.refused} do not fit" if outcome.refused else ""
    refused += f", {outcome.wrong} WRONG" if outcome.wrong else ""
    return (
        f"{task.kernel}, D {_range(task.head_dim)}, length {_range(task.length)}, "
        f"{8 * task.dtype_bytes} bit: {1e6 * outcome.seconds:.1f} us, {gain:.2f}x of the shipped configuration "
        f"({outcome.tried} tried{refused}): {settings}"
    )


def _range(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}-{bounds[1]}" if bounds[1] < _ENDLESS else f"from {bounds[0]}"
