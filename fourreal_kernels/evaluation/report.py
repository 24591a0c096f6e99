"""Tables of an evaluation as Markdown."""

from __future__ import annotations

import math

from .frechet import CLEAN
from .geometry_metrics import FEATURE_ERRORS, MATCH_COUNTS, WARP_ERRORS
from .protocol import PROTOCOL
from .reprojection import decibels

_GEOMETRY_HEADS = (
    "reprojection along views, PSNR dB", "warp along time, PSNR dB", "epipolar, views, px", "match error, views, px",
    "match error, time, px", "matches per pair, views", "matches per pair, time",
)  # fmt: skip


def spread_table(result: dict) -> str:
    """Standard deviation of the image metrics over scenes, and of their mean."""
    count = len(result["scenes"])
    lines = [
        f"| deviation over {count} scenes (of the mean) | PSNR dB | PSNR dB, moving pixels | SSIM | gradient energy |",
        "|---|---|---|---|---|",
    ]
    for name, values in result["deviation"].items():
        cells = (f"{value:.3f} ({value / math.sqrt(count):.3f})" for value in values.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def geometry_table(result: dict) -> str:
    """Consistency with the true cameras, depth and motion; the first row is the truth."""
    lines = ["| frames | " + " | ".join(_GEOMETRY_HEADS) + " |", "|---" * (len(_GEOMETRY_HEADS) + 1) + "|"]
    for name, values in result["geometry"]["mean"].items():
        cells = [f"{decibels(values[metric]):.2f}" for metric in WARP_ERRORS]
        cells += [_number(values.get(metric), 2) for metric in FEATURE_ERRORS]
        cells += [_number(values.get(metric), 1) for metric in MATCH_COUNTS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def distance_table(rows: list[dict]) -> str:
    """Frechet distances and KID, each beside its floor, under names that hold the extractor."""
    lines = [
        "| distance | prediction | value | clean vs clean | factor | KID | KID, clean vs clean | clips per half |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = [_short(row[key]) for key in ("frechet", "frechet_floor", "factor", "kid", "kid_floor")]
        clips = " + ".join(map(str, row["clips"]))
        lines.append(f"| {row['label']} | {row['prediction']} | " + " | ".join(numbers) + f" | {clips} |")
    return "\n".join(lines)


def score_table(result: dict) -> str:
    """Scores of official extractors, means over scenes; the first column is the truth."""
    mean = result["scores"]["mean"]
    lines = ["| score | " + " | ".join(mean) + " |", "|---" * (len(mean) + 1) + "|"]
    for label in mean[CLEAN]:
        lines.append(f"| {label} | " + " | ".join(_short(values[label]) for values in mean.values()) + " |")
    return "\n".join(lines)


def extractor_notes(result: dict) -> str:
    """One line per extractor: weights and how far they were checked."""
    lines = []
    for name, found in result["extractors"].items():
        weights = found["weights"]
        digest, check = weights["sha256"], _CHECKS[weights["checksum"]]
        checked = f"sha256 {digest}, {check}" if digest else "no weights file"
        lines.append(f"- {name}: {checked}; {found['preprocessing']}; licence: {found['licence']}")
    return "\n".join(lines)


_CHECKS = {
    "published": "that of the published file",
    "given by the user": "as you gave it",
    "not checked": "not checked: no published checksum is known",
}


def further_tables(result: dict) -> str:
    """Everything beyond the table of image metrics, with the choices of protocol."""
    parts = [spread_table(result)]
    if "geometry" in result:
        parts += ["Consistency with true cameras, depth and motion:", geometry_table(result)]
    if result.get("distances"):
        parts += ["Distances between distributions of clips:", distance_table(result["distances"])]
    if "scores" in result:
        parts += ["Scores:", score_table(result)]
    if "extractors" in result:
        parts += ["Extractors:", extractor_notes(result)]
    parts += ["Protocol:", "\n".join(f"- {line}" for line in PROTOCOL)]
    return "\n\n".join(parts)


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return ""
    return "no matches" if math.isnan(value) else f"{value:.{digits}f}"


def _short(value: float) -> str:
    return f"{value:.4g}"
