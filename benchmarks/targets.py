"""What the operators are to reach on the CPU, as data, and what a record says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .timing import geometric_mean, paired_ratio

Record = dict[str, Any]
OURS = ("ours:cpu", "ours:auto", "ours:triton", "ours:cuda")


@dataclass(frozen=True)
class Target:
    """Ours against the best of some peers, as the geometric mean over the cases it selects.

    Attributes:
        select: what the case must have: keys of its record, ``sizes`` by their letters; a tuple lists alternatives.
        peers: names of providers; the fastest of those present counts.
        ratio: the least ratio.
        stage: compare this stage instead of the whole.
    """

    label: str
    select: dict[str, Any]
    peers: tuple[str, ...]
    ratio: float
    stage: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a record says about a target: the ratio, or None with the reason why it is not known."""

    target: Target
    ratio: float | None
    cases: int
    reason: str = ""

    @property
    def verdict(self) -> str:
        if self.ratio is None:
            return f"not measured: {self.reason}"
        return "met" if self.ratio >= self.target.ratio else "missed"


def _attention(axes: str, head_dim: int, direction: str, **more: Any) -> dict[str, Any]:
    plain = {"suite": "attention", "variant": ""}
    return plain | {"axes": axes, "D": head_dim, "direction": direction} | more


def _pointwise(axes: str | tuple[str, ...], **more: Any) -> dict[str, Any]:
    return {"suite": "pointwise", "axes": axes, "direction": "forward", "output": "given"} | more


def _trained(entries: str) -> dict[str, Any]:
    return _pointwise(("v", "t"), direction="forward+backward", variant=entries, output="fresh")


_LINES, _GRID, _PERMUTED = ("sdpa, stored as lines",), ("sdpa on the grid",), ("permute + sdpa + permute",)
_UNION_TRAINING = ("sdpa on gathered keys", "sdpa with dense mask")
_EINSUM, _PRODUCTS = ("einsum", "einsum, compiled"), ("products, compiled",)
_POINTWISE, _POINTWISE_UNION = (*_PERMUTED, *_EINSUM), ("masked sdpa", *_EINSUM)
_PLAIN = ("plain with sdpa",)
_LONG, _EIGHT = (576,), "8 entries"
_PER_CHANNEL = {"suite": "exchange", "op": "sync_exchange_", "variant": ("hard, per channel", "soft, per channel")}
_FUSED = {
    "suite": "exchange", "op": "sync_exchange_norm_", "variant": ("hard, per channel", "soft, per channel")
}
_NORM_ROPE = {"suite": "norm_rope", "op": "qk_norm_rope_"}



def _against_products(
    name: str, select: dict[str, Any], ratio: float, peers: tuple[str, ...] = _POINTWISE
) -> tuple[Target, Target]:
    """Against the stock forms that the aim names, and against a form that is faster than they are when compiled."""
    return (
        Target(f"{name} / best of sdpa and einsum", select, peers, ratio),
        Target(f"{name} / products, compiled", select, _PRODUCTS, ratio),
    )


TARGETS = (
    Target("tn forward D64 / sdpa stored as lines", _attention("tn", 64, "forward"), _LINES, 1.5),
    Target("tn forward D64 / sdpa on the grid", _attention("tn", 64, "forward"), _GRID, 1.5),
    Target("tn forward D128 / sdpa stored as lines", _attention("tn", 128, "forward"), _LINES, 1.3),
    Target("tn forward D128 / sdpa on the grid", _attention("tn", 128, "forward"), _GRID, 1.3),
    Target("vn forward D64 / permute + sdpa + permute", _attention("vn", 64, "forward"), _PERMUTED, 1.6),
    Target("vn forward D128 / permute + sdpa + permute", _attention("vn", 128, "forward"), _PERMUTED, 1.4),
    Target("vn|tn forward D64 / 3 sdpa merged", _attention("vn|tn", 64, "forward"), ("3 sdpa merged by lse",), 1.7),
    Target("tn backward D64 / sdpa stored as lines", _attention("tn", 64, "backward"), _LINES, 1.4),
    Target("tn backward D64 / sdpa on the grid", _attention("tn", 64, "backward"), _GRID, 1.4),
    Target("tn backward D128 / sdpa stored as lines", _attention("tn", 128, "backward"), _LINES, 1.25),
    Target("tn backward D128 / sdpa on the grid", _attention("tn", 128, "backward"), _GRID, 1.25),
    Target("vn backward D64 / sdpa with permutes", _attention("vn", 64, "backward"), _PERMUTED, 1.4),
    Target("vn backward D128 / sdpa with permutes", _attention("vn", 128, "backward"), _PERMUTED, 1.25),
    Target("vn|tn backward / gathered or dense mask", _attention("vn|tn", 64, "backward"), _UNION_TRAINING, 2.5),
    *_against_products("v, t 8 entries, given output", _pointwise(("v", "t"), variant=_EIGHT, D=(64, 128)), 5),
    *_against_products("the same, N >= 576", _pointwise(("v", "t"), variant=_EIGHT, D=(64, 128), N=_LONG), 7),
    Target("v, t 16 entries / best", _pointwise(("v", "t"), variant="16 entries"), _POINTWISE, 4),
    Target("v, t 21 entries / best", _pointwise(("v", "t"), variant="21 entries"), _POINTWISE, 3.5),
    *_against_products("v, t 8 entries, D40", _pointwise(("v", "t"), variant=_EIGHT, D=40), 6),
    *_against_products("v, t 8 entries, fresh output", _pointwise(("v", "t"), variant=_EIGHT, output="fresh"), 3),
    *_against_products("v|t, given output", _pointwise("v|t"), 3, _POINTWISE_UNION),
    *_against_products("v, t forward + backward, 8 entries", _trained(_EIGHT), 6),
    Target("v, t forward + backward, 16 entries / best", _trained("16 entries"), _POINTWISE, 4),
    Target("per-channel exchange in place / eager", _PER_CHANNEL, ("eager",), 7),
    Target("per-channel exchange in place / compiled", _PER_CHANNEL, ("compiled",), 1.05),
    Target("the same, residual to LayerNorm fused / eager", _FUSED, ("eager",), 9),
    Target("the same, residual to LayerNorm fused / compiled", _FUSED, ("compiled",), 3),
    Target("qk_norm_rope_ D64, D128 / eager", _NORM_ROPE | {"D": (64, 128)}, ("eager",), 20),
    Target("qk_norm_rope_ D64, D128 / compiled", _NORM_ROPE | {"D": (64, 128)}, ("compiled",), 4),
    Target("qk_norm_rope_ D40 / eager", _NORM_ROPE | {"D": 40}, ("eager",), 8),
    Target("qk_norm_rope_ D40 / compiled", _NORM_ROPE | {"D": 40}, ("compiled",), 2.5),
    Target("TwoStreamBlock forward / eager block with sdpa", {"suite": "block"}, ("eager block with sdpa",), 1.35),
    Target("fourreal generate, generation / plain with sdpa", {"suite": "generate"}, _PLAIN, 1.3, stage="generate"),
    Target("fourreal generate, whole process / plain with sdpa", {"suite": "generate"}, _PLAIN, 1.3),
)


def selected(case: Record, select: dict[str, Any]) -> bool:
    """Whether a case has all that ``select`` asks for."""
    for key, wanted in select.items():
        found = case.get(key, case["sizes"].get(key))
        if found not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            return False
    return True


def our_provider(case: Record, names: tuple[str, ...] = OURS) -> Record | None:
    """The provider of ours that targets are about, if it was timed: the first of ``names``."""
    for name in names:
        provider = case["providers"].get(name)
        if provider and provider["status"] == "ok":
            return provider
    return None


def case_ratio(
    case: Record, peers: tuple[str, ...], stage: str = "", names: tuple[str, ...] = OURS
) -> float | None:
    """How many times faster ours is than the fastest of ``peers``; None when either was not timed."""
    ours = our_provider(case, names)
    timed = [case["providers"][name] for name in peers if case["providers"].get(name, {}).get("status") == "ok"]
    if ours is None or not timed:
        return None
    samples: Callable[[Record], list[float]] = lambda x: (x["stages"][stage] if stage else x)["samples"]  # noqa: E731
    return min(paired_ratio(samples(peer), samples(ours)) for peer in timed)


def judge(record: Record) -> list[Outcome]:
    """The outcome of every target."""
    return [_judge(target, [c for c in record["cases"] if selected(c, target.select)]) for target in TARGETS]


def _judge(target: Target, cases: list[Record]) -> Outcome:
    if not cases:
        return Outcome(target, None, 0, "no such case in this record")
    ratios = [case_ratio(case, target.peers, target.stage) for case in cases]
    known = [ratio for ratio in ratios if ratio is not None]
    if len(known) < len(ratios):
        first = cases[ratios.index(None)]
        reason = "; ".join(
            f"{name} {provider['status']} ({provider['reason']})"
            for name, provider in first["providers"].items()
            if provider["status"] != "ok" and (name in OURS or name in target.peers)
        )
        return Outcome(target, None, len(known), reason or "no peer was timed")
    return Outcome(target, geometric_mean(known), len(known))
