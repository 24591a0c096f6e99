"""A record as Markdown: the targets, then a table per suite; and as plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fourreal_kernels.data.staging import staged_folder

from .plots import growth_plots, ratio_plots, roofline
from .rules import Rule, judge_rules
from .sweep import sweep_lines
from .targets import Outcome, judge, our_provider
from .timing import paired_ratio

Record = dict[str, Any]


def report_text(record: Record) -> str:
    """The whole report as Markdown."""
    parts = [_head(record), _targets(judge(record)), *map(_rule, judge_rules(record))]
    suites = dict.fromkeys(case["suite"] for case in record["cases"])
    for suite in suites:
        cases = [case for case in record["cases"] if case["suite"] == suite]
        parts.append(f"## {suite}\n\n{_suite_table(cases)}")
    parts += [f"Cost against FLOPs, {line}" for line in sweep_lines(record)]
    parts.append(_not_timed(record))
    return "\n\n".join(part for part in parts if part)


def write_report(record: Record, folder: Path) -> list[Path]:
    """Write ``report.md`` and the plots into ``folder``.

    Returns:
        The files written.
    """
    with staged_folder(folder) as stage:
        names = ["report.md"]
        (stage / names[0]).write_text(report_text(record) + "\n")
        for name, image in {**ratio_plots(record), **roofline(record), **growth_plots(record)}.items():
            image.save(stage / name)
            names.append(name)
    return [folder / name for name in names]


def _head(record: Record) -> str:
    machine, versions, ceilings = record["machine"], record["versions"], record["ceilings"]
    commit = (record["commit"] or "unknown")[:12] + (" with changes" if record["changed"] else "")
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads" + (f", {machine['gpu']}" if machine["gpu"] else ""),
        f"torch {versions['torch']}, numpy {versions['numpy']}, fourreal_kernels {versions['fourreal_kernels']} "
        f"({versions['compiler'] or 'no native library'}), commit {commit}, {record['created']}",
        f"Ceilings of the same run: {ceilings['fma_gflops']:.0f} GFLOP/s ({ceilings['fma_source']}), "
        f"{ceilings['copy_gbs']:.1f} GB/s ({ceilings['copy_source']}).",
        *(_source(source) for source in record.get("sources", ())),
        "Times are medians with the 20th and 80th percentile; a ratio is the median over interleaved rounds of a "
        "provider's seconds divided by ours: above 1, ours is faster.",
    ]
    return "\n".join(lines)


def _source(source: Record) -> str:
    """Which cases of a joined record are from which run."""
    return f"Of commit {(source['commit'] or 'unknown')[:12]}, {source['created']}: {', '.join(source['suites'])}."


def _targets(outcomes: list[Outcome]) -> str:
    measured = [outcome for outcome in outcomes if outcome.cases or outcome.reason.startswith("ours")]
    if not measured:
        return ""
    rows = [["operator / against", "target", "reached", "cases", ""]]
    for outcome in measured:
        reached = "-" if outcome.ratio is None else f"{outcome.ratio:.2f}"
        rows.append([outcome.target.label, f"{outcome.target.ratio:g}", reached, str(outcome.cases), outcome.verdict])
    return "## Targets (geometric mean over the cases)\n\n" + _table(rows)


def _rule(rule: Rule) -> str:
    if not rule.checked:
        return ""
    verdict = f"holds in {rule.checked - len(rule.broken)} of {rule.checked} cases"
    return f"{rule.label}: {verdict}" + "".join(f"\n- not: {line}" for line in rule.broken)


def _suite_table(cases: list[Record]) -> str:
    rows = [["case", "provider", "ms", "p20-p80", "ratio", "rate", "of ceiling", "MB", "error"]]
    for case in cases:
        ours = our_provider(case)
        for index, (name, provider) in enumerate(_timed(case)):
            ratio = paired_ratio(provider["samples"], ours["samples"]) if ours else None
            rows.append([_short_name(case) if index == 0 else "", name, *_cells(provider, ratio)])
    return _table(rows)


def _timed(case: Record) -> list[tuple[str, Record]]:
    return [(name, provider) for name, provider in case["providers"].items() if provider["status"] == "ok"]


def _short_name(case: Record) -> str:
    sizes = " ".join(f"{key}{value}" for key, value in case["sizes"].items() if key != "B")
    parts = (case["op"], case["axes"], case["variant"], case["direction"], case["output"], sizes)
    return ", ".join(part for part in parts if part).replace("|", "\\|")


def _cells(provider: Record, ratio: float | None) -> list[str]:
    rate, part = _rate(provider)
    peak = provider["peak_bytes"]
    return [
        f"{provider['p50'] * 1e3:.3g}",
        f"{provider['p20'] * 1e3:.3g}-{provider['p80'] * 1e3:.3g}",
        "" if ratio is None else f"{ratio:.2f}",
        rate,
        part,
        "" if peak is None else f"{peak / 1e6:.1f}",
        f"{provider['error']:.1e}",
    ]


def _rate(provider: Record) -> tuple[str, str]:
    """The rate that comes nearer to its ceiling, and how near."""
    rates = []
    if "gflops" in provider:
        rates.append((provider["fma_percent"], f"{provider['gflops']:.3g} GFLOP/s"))
    if "gbs" in provider:
        rates.append((provider["copy_percent"], f"{provider['gbs']:.3g} GB/s"))
    if not rates:
        return "", ""
    percent, text = max(rates)
    return text, f"{percent:.0f} %"


def _not_timed(record: Record) -> str:
    """Providers without a time, each reason once with the number of cases."""
    reasons: dict[str, int] = {}
    for case in record["cases"]:
        for name, provider in case["providers"].items():
            if provider["status"] != "ok":
                line = f"{case['op']}, {name}: {provider['status']}, {provider['reason']}"
                reasons[line] = reasons.get(line, 0) + 1
    if not reasons:
        return ""
    return "## Not timed\n\n" + "\n".join(f"- {line} ({count} cases)" for line, count in reasons.items())


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
