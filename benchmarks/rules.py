"""Statements about single cases of a record that are to hold in each, and the cases that break them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from .targets import our_provider

Record = dict[str, Any]

_LONG_TOKENS = 144  # 8 frames of 144 tokens: sequences of 1152
_PEAK_PERCENT = 70.0
_FLOAT = 4
_SCRATCH = 2 * 2**20  # per thread
_UNCERTAINTY = 2**19  # per thread, of the measured memory


@dataclass(frozen=True)
class Rule:
    """A statement, the number of cases it is about, and those that break it with the figure."""

    label: str
    checked: int
    broken: list[str]


def judge_rules(record: Record) -> list[Rule]:
    """Part of the FMA peak at long sequences, errors against those of the main peer, and memory."""
    return [
        _peak_rule(record),
        _error_rule(record, "error", "largest error against float64 at most that of the main peer"),
        _error_rule(record, "rms_error", "root mean square error against float64 at most that of the main peer"),
        _memory_rule(record),
    ]


def _attention(record: Record) -> list[tuple[Record, Record]]:
    """Cases of ``axis_attention`` with the provider of ours."""
    found = [(case, our_provider(case)) for case in record["cases"] if case["op"] == "axis_attention"]
    return [(case, ours) for case, ours in found if ours]


def _peak_rule(record: Record) -> Rule:
    long = [
        (case, ours) for case, ours in _attention(record)
        if case["suite"] == "attention" and case["direction"] == "forward" and case["sizes"]["N"] >= _LONG_TOKENS
    ]
    parts = [(case["name"], ours["fma_percent"]) for case, ours in long]
    slow = [f"{name}: {percent:.0f} %" for name, percent in parts if percent < _PEAK_PERCENT]
    return Rule(f"attention forward, S >= 1152: at least {_PEAK_PERCENT:.0f} % of the FMA peak", len(long), slow)


def _error_rule(record: Record, key: str, label: str) -> Rule:
    compared, wider = 0, []
    for case, ours in _attention(record):
        peer = case["providers"].get(case["main_peer"], {})
        if key in peer:
            compared += 1
            if ours[key] > peer[key]:
                wider.append(f"{case['name']}: {ours[key]:.2g}, {case['main_peer']} {peer[key]:.2g}")
    return Rule(label, compared, wider)


def _memory_rule(record: Record) -> Rule:
    """Over all lengths: what a call may take grows with its outputs and with one head's keys, not with S^2.

    The bound is that of the CPU kernels.
    """
    measured = [] if record["machine"]["gpu"] else [
        (case, ours) for case, ours in _attention(record)
        if ours["peak_bytes"] is not None and case["direction"] in ("forward", "backward")
    ]
    over = []
    for case, ours in measured:
        allowed = _allowed_bytes(case, record["machine"]["threads"])
        if ours["peak_bytes"] > allowed:
            over.append(f"{case['name']}: {ours['peak_bytes'] / 1e6:.1f} MB, allowed {allowed / 1e6:.1f} MB")
    label = "peak memory at most the outputs, 2 MB per thread, and a packed K and V per head in flight"
    return Rule(label, len(measured), over)


def _allowed_bytes(case: Record, threads: int) -> float:
    sizes = case["sizes"]
    elements = prod(sizes.values())
    log_sum_exp = elements // sizes["D"]
    written = 3 * elements if case["direction"] == "backward" else elements * (case["output"] == "fresh")
    packed = 2 * elements // (sizes["B"] * sizes["H"])
    per_thread = packed * _FLOAT + _SCRATCH + _UNCERTAINTY
    return _FLOAT * (written + log_sum_exp) + threads * per_thread
