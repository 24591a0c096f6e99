"""The plots of a record: ratios per shape, roofline, and seconds against FLOPs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fourreal_kernels.charts import COLORS, Chart, Series

from .sweep import SUITE, fit_line, sweeps
from .targets import case_ratio, our_provider

if TYPE_CHECKING:
    from PIL.Image import Image

Record = dict[str, Any]
_GIGA = 1e9


def ratio_plots(record: Record) -> dict[str, Image]:
    """Per suite with several N: how many times faster ours is than the fastest peer, over N. By file name."""
    plots = {}
    for suite in dict.fromkeys(case["suite"] for case in record["cases"]):
        found: dict[str, list[tuple[float, float]]] = {}
        for case in record["cases"]:
            ratio = case_ratio(case, _peers(case)) if case["suite"] == suite else None
            if ratio is not None and "N" in case["sizes"]:
                found.setdefault(_label(case), []).append((case["sizes"]["N"], ratio))
        for part, chosen in _in_pages(found):
            chart = Chart(f"{suite}: fastest peer / ours", "N, tokens per frame", "above 1: ours is faster", log_x=True)
            chart.y_from_zero = True
            chart.x_ticks = sorted({x for _, points in chosen for x, _ in points})
            chart.series = [Series(label, sorted(points)) for label, points in chosen]
            ends = [(chart.x_ticks[0], 1.0), (chart.x_ticks[-1], 1.0)]
            chart.series.append(Series("equal", ends, markers=False, color="#000000"))
            plots[f"ratio-{suite}{part}.png"] = chart.draw()
    return plots


def _in_pages(found: dict[str, list[tuple[float, float]]]):
    """No more series in one picture than there are colors."""
    size, items = len(COLORS), list(found.items())
    for start in range(0, len(items), size):
        yield ("" if len(items) <= size else f"-{start // size + 1}"), items[start : start + size]


def _peers(case: Record) -> tuple[str, ...]:
    return tuple(name for name in case["providers"] if not name.startswith("ours:"))


def _label(case: Record) -> str:
    sizes = case["sizes"]
    width = f"D{sizes['D']}" if "D" in sizes else f"C{sizes['C']}"
    direction = "" if case["direction"] == "forward" else case["direction"]
    output = "fresh" if case["suite"] == "pointwise" and case["output"] == "fresh" else ""
    op = "" if case["op"] == "axis_attention" else case["op"]
    return " ".join(part for part in (op, case["axes"], case["variant"], width, direction, output) if part)


def roofline(record: Record) -> dict[str, Image]:
    """GFLOP/s of ours over FLOPs per byte, below what the ceilings allow."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for case in record["cases"]:
        ours = our_provider(case)
        if ours and case["flops"] and case["bytes"] and case["suite"] != SUITE:
            name = f"{case['suite']} {case['direction']}"
            groups.setdefault(name, []).append((case["flops"] / case["bytes"], ours["gflops"]))
    if not groups:
        return {}
    fma, copy = record["ceilings"]["fma_gflops"], record["ceilings"]["copy_gbs"]
    intensities = [x for points in groups.values() for x, _ in points]
    low, high = min(*intensities, fma / copy) / 3, max(*intensities, fma / copy) * 2
    roof = [(low, low * copy), (fma / copy, fma), (high, fma)]
    chart = Chart("roofline", "FLOPs per byte that must move", "GFLOP/s", log_x=True, log_y=True)
    chart.series = [Series(name, points, line=False) for name, points in groups.items()]
    chart.series.append(Series("ceilings of this run", roof, markers=False, color="#000000"))
    return {"roofline.png": chart.draw()}


def growth_plots(record: Record) -> dict[str, Image]:
    """Seconds against FLOPs with the fitted line."""
    chart = Chart(f"{SUITE}: forward, N, V and T swept", "GFLOP", "milliseconds", y_from_zero=True)
    for color, (axes, flops, seconds) in zip(COLORS, sweeps(record), strict=False):
        if len(set(flops)) < 2:
            continue
        line = fit_line(flops, seconds)
        points = [(x / _GIGA, y * 1e3) for x, y in zip(flops, seconds, strict=True)]
        ends = [(x / _GIGA, (line.offset + line.seconds_per_flop * x) * 1e3) for x in (flops[0], flops[-1])]
        chart.series.append(Series(f"{axes}, R^2 = {line.r_squared:.4f}", points, line=False, color=color))
        chart.series.append(Series(f"{axes}, fitted line", ends, markers=False, color=color))
    return {"growth.png": chart.draw()} if chart.series else {}
