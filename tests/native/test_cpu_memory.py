"""Peak memory of the CPU kernels: 2 MB per thread, and in frame attention what is packed, at any length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import pytest

from fourreal_kernels import native
from fourreal_kernels.ops.sync_exchange.cpu_rows import SCRATCH_BYTES

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1 << 20
PER_THREAD = 2 * MEGABYTE
SLACK = MEGABYTE // 2
"""The interpreter's own, and pages that the system counts late."""

WANTED_TASKS = 8
"""Of a backward, whose sums of gradients are its own; see csrc/cpu/frame_attention_backward.cpp."""

THREADS = (1, 2)
FRAME_AXES = {"vn": (4, 1), "tn": (1, 4), "vn|tn": (2, 2)}
"""With the views and timesteps of a grid that is one line of four frames, or in each pass of a union two of two."""

pytestmark = pytest.mark.skipif(native.cpu_library() is None, reason=native.why_missing("cpu"))


@dataclass(frozen=True)
class Case:
    call: str
    variant: str
    sizes: tuple[int, ...]
    packed: float = 0
    """How many heads' keys and values, or sums of their gradients, it may hold."""

    def packed_bytes(self) -> int:
        return 2 * prod(self.sizes[1:4]) * self.sizes[5] * 4

    def bound(self, threads: int) -> float:
        lse = prod(self.sizes[:5]) * 4 if self.call == "forward" else 0
        return self.packed * self.packed_bytes() + threads * PER_THREAD + lse


def frame_case(call: str, axes: str, tokens: int, heads: int, packed: float) -> Case:
    """``packed``: of lines."""
    lines = 2 if "|" in axes else 1
    return Case(call, axes, (1, *FRAME_AXES[axes], tokens, heads, 64), packed / lines)


def forward_cases(threads: int) -> list[Case]:
    """One packed head per thread; of fewer heads than twice the threads all, so that threads share each."""
    many, few = 2 * threads, 2 * threads - 1
    cases = [frame_case("forward", axes, tokens, many, threads) for axes in FRAME_AXES for tokens in (256, 1024)]
    return cases + [frame_case("forward", "vn", 1024, heads, heads) for heads in {1, few}]


def backward_cases(threads: int) -> list[Case]:
    """A packed line and its sums per thread; of one head the lines of a pass, and the sums of every task."""
    def packed(axes: str, heads: int) -> int:
        return 2 * threads if heads > 1 else WANTED_TASKS + (2 if "|" in axes else 1)
    return [frame_case("backward", axes, tokens, heads, packed(axes, heads))
            for axes in ("vn", "vn|tn") for tokens in (128, 512) for heads in (1, WANTED_TASKS)]


def cases_of_16_bits(threads: int) -> list[Case]:
    """A packed line per thread, in the backward with its sums, and between the passes a head per thread: its outputs
    and two floats per row, or its three gradients."""
    held = {"forward": 0.5 + 0.5 + 1 / 64, "backward": 1 + 1.5}
    return [Case(call, "vn|tn bfloat16", (1, 2, 2, tokens, WANTED_TASKS, 64), threads * of_thread)
            for call, of_thread in held.items() for tokens in (512, 1024)]


def other_cases() -> list[Case]:
    """Streams of 4 and 16 MB."""
    grids = [(1, 4, 4, tokens, 4, 64) for tokens in (256, 1024)]
    cases = [Case("forward", axes, sizes) for axes in ("v", "t", "v|t", "vt") for sizes in grids]
    cases += [Case("backward", axes, sizes) for axes in ("v", "v|t") for sizes in grids]
    return [*cases, Case("norm_rope", "", grids[1]), Case("exchange", "per channel", grids[1])]


def dense_cases() -> list[Case]:
    return [Case("exchange", "dense", (1, 4, 4, tokens, 4, 64)) for tokens in (256, 1024)]


@cache
def all_rises() -> dict[tuple[int, Case], int]:
    """By threads and case. In a process of its own: the peak of this one depends on what ran before."""
    keys = [(threads, case) for threads in THREADS
            for case in [*forward_cases(threads), *backward_cases(threads), *cases_of_16_bits(threads), *other_cases(),
                         *dense_cases()]]
    command = [sys.executable, str(Path(__file__).with_name("memory_rise.py"))]
    given = json.dumps([(threads, case.call, case.variant, case.sizes) for threads, case in keys])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(keys, json.loads(done.stdout), strict=True))


def rise_of(case: Case, threads: int) -> int:
    rise = all_rises()[threads, case]
    if rise is None:
        pytest.skip("the system does not reset the peak memory of a process")
    return rise


def check(cases: list[Case], threads: int) -> None:
    for case in cases:
        rise, bound = rise_of(case, threads) / MEGABYTE, case.bound(threads) / MEGABYTE
        assert rise <= bound + SLACK / MEGABYTE, f"{case}, {threads} threads: {rise:.2f} MB, allowed {bound:.2f} MB"


@pytest.mark.parametrize("threads", THREADS)
def test_frame_attention(threads):
    check(forward_cases(threads), threads)


@pytest.mark.parametrize("threads", THREADS)
def test_frame_attention_backward(threads):
    check(backward_cases(threads), threads)


@pytest.mark.parametrize("threads", THREADS)
def test_unions_of_16_bits(threads):
    check(cases_of_16_bits(threads), threads)


@pytest.mark.parametrize("threads", THREADS)
def test_other_kernels(threads):
    check(other_cases(), threads)


@pytest.mark.parametrize("threads", THREADS)
def test_dense_exchange_holds_one_scratch_whatever_its_length(threads):
    """The scratch of a chunk, shared by the threads, and torch's own for its product."""
    for case in dense_cases():
        assert rise_of(case, threads) <= SCRATCH_BYTES + SLACK, case


@pytest.mark.parametrize("threads", THREADS)
def test_the_measurement_sees_what_is_packed(threads):
    short, long = (frame_case("forward", "vn", tokens, 2 * threads, threads) for tokens in (256, 1024))
    growth = threads * (long.packed_bytes() - short.packed_bytes())
    assert rise_of(long, threads) - rise_of(short, threads) > 0.7 * growth
