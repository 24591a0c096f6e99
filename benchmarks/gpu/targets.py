"""What the GPU kernels are to reach, and what a record says about it: the worst case of each target counts.

The Triton and the CUDA kernels are judged each for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..targets import OURS, case_ratio, our_provider, selected
from .bench_attention import FLEX, FLEX_SUITE, LINES, PERMUTED, SUITE
from .bench_others import EXCHANGE, NORM_ROPE, POINTWISE

Record = dict[str, Any]


@dataclass(frozen=True)
class GpuTarget:
    """Ours against the fastest of ``peers``, or against the bandwidth of a copy when there are none.

    Attributes:
        select: as in :class:`benchmarks.targets.Target`.
        least: the ratio, or the percent of the copy.
        cuda: that of the CUDA kernels, where it is another one.
    """

    label: str
    select: dict[str, Any]
    least: float
    peers: tuple[str, ...] = ()
    cuda: float | None = None


_FORWARD = {"suite": SUITE, "axes": ("vn", "tn"), "direction": "forward", "V": 8, "T": 8}
_POINTWISE = {"suite": POINTWISE, "direction": "forward", "axes": ("v", "t"), "variant": "8 entries", "N": (576, 1560)}
_CHANNEL = {"suite": EXCHANGE, "op": "sync_exchange_", "variant": ("hard, per channel", "soft, per channel"),
            "N": (576, 1560)}

TARGETS = (
    GpuTarget("vn, tn forward N 576 / cudnn without a copy", _FORWARD | {"N": 576}, 0.60, (LINES["cudnn"],)),
    GpuTarget("vn forward N <= 256 / permute + cudnn + permute",
              _FORWARD | {"axes": "vn", "N": (64, 100, 240, 256)}, 1.0, (PERMUTED["cudnn"],)),
    GpuTarget("vn|tn forward N 576 D 128 / flex_attention", {"suite": FLEX_SUITE, "N": 576}, 1.2, (FLEX,)),
    GpuTarget("vn|tn forward N 64, 100 / flex_attention", {"suite": FLEX_SUITE, "N": (64, 100)}, 1.4, (FLEX,)),
    GpuTarget("v, t / permute + sdpa + permute", _POINTWISE, 5.0, ("permute + sdpa + permute",)),
    GpuTarget("v, t, percent of the copy", _POINTWISE, 75.0, cuda=85.0),
    GpuTarget("per-channel exchange / eager", _CHANNEL, 3.0, ("eager",)),
    GpuTarget("per-channel exchange, percent of the copy", _CHANNEL, 80.0, cuda=85.0),
    GpuTarget("qk_norm_rope_, percent of the copy", {"suite": NORM_ROPE, "N": (576, 1560)}, 80.0, cuda=85.0),
)


def judge_gpu(record: Record) -> list[str]:
    """A line per target and backend of ours that was timed for it; one that says so where none was."""
    return [line for target in TARGETS for line in _lines(target, record["cases"])]


def _lines(target: GpuTarget, cases: list[Record]) -> list[str]:
    cases = [case for case in cases if selected(case, target.select)]
    timed = [name for name in OURS if any(our_provider(case, (name,)) for case in cases)]
    not_timed = f"{target.label}: at least {target.least:g}: not measured"
    return [_line(target, cases, name) for name in timed] or [not_timed]


def _line(target: GpuTarget, cases: list[Record], name: str) -> str:
    least = target.cuda if name == "ours:cuda" and target.cuda is not None else target.least
    reached = [_reached(target, case, name) for case in cases]
    known = [value for value in reached if value is not None]
    head = f"{target.label}, {name.removeprefix('ours:')}: at least {least:g}"
    if not known:
        return f"{head}: not measured"
    verdict = "met" if min(known) >= least and len(known) == len(cases) else "missed"
    missing = f", {len(cases) - len(known)} not measured" if len(known) < len(cases) else ""
    return f"{head}: {verdict}, {min(known):.3g} to {max(known):.3g} in {len(known)} cases{missing}"


def _reached(target: GpuTarget, case: Record, name: str) -> float | None:
    if target.peers:
        return case_ratio(case, target.peers, names=(name,))
    ours = our_provider(case, (name,))
    return ours.get("copy_percent") if ours else None
