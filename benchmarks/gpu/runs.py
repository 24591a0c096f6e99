"""The two runs and their blocks, the ones that matter most first; the limits of one run add up to some nine minutes."""

from __future__ import annotations

from functools import partial

from . import (
    bench_attention,
    bench_others,
    bench_temporal,
    check_attention,
    check_hopper,
    check_hopper_backward,
    check_others,
    check_training,
    fa3,
    stability,
    tools,
)
from .block import Block
from .timings import case_jobs, ceiling_jobs

CHECK = (
    Block("machine", 60, tools.machine_jobs),
    Block("build", 180, tools.build_jobs, gpu_only=True),
    Block("hopper primitives", 90, tools.primitive_jobs, gpu_only=True),
    Block("hopper attention", 80, check_hopper.jobs, shards=4),
    Block("hopper attention backward", 80, check_hopper_backward.jobs, shards=4),
    Block("attention", 150, check_attention.jobs, shards=8),
    Block("two streams", 40, check_attention.two_stream_jobs),
    Block("exchange", 60, check_others.exchange_jobs, shards=4),
    Block("norm and rope", 40, check_others.norm_rope_jobs, shards=2),
    Block("training", 90, check_training.jobs, own_device=False),
    Block("repeats", 60, stability.repeat_jobs, shards=2),
    Block("graphs", 50, stability.graph_jobs, gpu_only=True, shards=2),
    Block("sanitizers", 150, tools.sanitizer_jobs, gpu_only=True),
    Block("tests", 200, tools.pytest_jobs, gpu_only=True),
)


def _timed(name: str, seconds: float, cases, compile: bool = False) -> Block:
    return Block(name, seconds, case_jobs(cases, compile), own_device=False)


BENCH = (
    Block("ceilings", 40, ceiling_jobs, own_device=False),
    _timed("attention vn", 70, partial(bench_attention.forward_cases, "vn")),
    _timed("attention vn|tn", 70, partial(bench_attention.forward_cases, "vn|tn")),
    _timed("norm and rope", 30, bench_others.norm_rope_cases),
    _timed("exchange", 60, bench_others.exchange_cases),
    _timed("pointwise", 50, bench_others.pointwise_cases),
    _timed("attention tn", 60, partial(bench_attention.forward_cases, "tn")),
    _timed("attention backward", 70, bench_attention.backward_cases),
    _timed("two streams", 30, bench_attention.two_stream_cases),
    _timed("temporal attention", 40, bench_temporal.cases),
    _timed("flex attention", 120, bench_attention.flex_cases, compile=True),
    _timed("compiled attention", 60, bench_attention.compiled_cases, compile=True),
    _timed("compiled others", 90, bench_others.compiled_cases, compile=True),
    Block("flash attention 3", 60, fa3.jobs, gpu_only=True, own_device=False, optional=True),
    Block("ceilings again", 40, ceiling_jobs, own_device=False),
)

RUNS = {"check": CHECK, "bench": BENCH}
