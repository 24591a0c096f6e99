"""A small line and scatter chart, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .data.optional import import_optional

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Point = tuple[float, float]

_WIDTH, _HEIGHT = 1500, 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 110, 560, 60, 90
_TEXT, _GRID, _INK = 20, "#dddddd", "#222222"
COLORS = (
    "#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22",
)
_RADIUS = 6
_TICKS = (1, 2, 5)
_FEW_TICKS = 5


@dataclass
class Series:
    """Points under one name in the legend; joined by a line or not."""

    name: str
    points: Sequence[Point]
    line: bool = True
    markers: bool = True
    color: str | None = None


@dataclass
class Chart:
    """Series in one frame with a legend to the right. Axes are linear or logarithmic."""

    title: str
    x_label: str
    y_label: str
    series: list[Series] = field(default_factory=list)
    log_x: bool = False
    log_y: bool = False
    y_from_zero: bool = False
    x_ticks: Sequence[float] = ()

    def draw(self) -> Image.Image:
        """The picture. At least one point is needed."""
        image, pen, font = canvas(_WIDTH, _HEIGHT, _TEXT)
        points = [point for series in self.series for point in series.points]
        across = _Scale([x for x, _ in points], self.log_x, _LEFT, _WIDTH - _RIGHT)
        heights = [y for _, y in points] + ([0.0] if self.y_from_zero else [])
        up = _Scale(heights, self.log_y, _HEIGHT - _BOTTOM, _TOP)
        self._frame(pen, font, across, up)
        for index, series in enumerate(self.series):
            color = series.color or COLORS[index % len(COLORS)]
            _draw_series(pen, series, color, [(across.place(x), up.place(y)) for x, y in series.points])
            _legend(pen, font, index, series, color)
        return image

    def _frame(self, pen: ImageDraw.ImageDraw, font, across: _Scale, up: _Scale) -> None:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        free_from = 0.0  # a label that would run into the one before it is left out
        for value in self.x_ticks or across.ticks():
            x, label = across.place(value), _number(value)
            pen.line([(x, _TOP), (x, bottom)], _GRID)
            half = pen.textlength(label, font) / 2
            if x - half >= free_from:
                pen.text((x, bottom + 8), label, _INK, font, anchor="mt")
                free_from = x + half + 4
        for value in up.ticks():
            y = up.place(value)
            pen.line([(_LEFT, y), (right, y)], _GRID)
            pen.text((_LEFT - 8, y), _number(value), _INK, font, anchor="rm")
        pen.rectangle([_LEFT, _TOP, right, bottom], outline=_INK)
        pen.text((_LEFT, _TOP - 14), f"{self.title}   ({self.y_label})", _INK, font, anchor="ls")
        pen.text(((_LEFT + right) / 2, _HEIGHT - 20), self.x_label, _INK, font, anchor="ms")


def canvas(width: int, height: int, text_size: int) -> tuple[Image.Image, ImageDraw.ImageDraw, object]:
    """A white picture, its pen, and a font. Raises ImportError without Pillow."""
    image = import_optional("PIL.Image", "drawing a chart").new("RGB", (width, height), "white")
    font = import_optional("PIL.ImageFont", "drawing a chart").load_default(text_size)
    return image, import_optional("PIL.ImageDraw", "drawing a chart").Draw(image), font


class _Scale:
    """Places values between two pixel positions."""

    def __init__(self, values: Sequence[float], logarithmic: bool, start: float, end: float):
        self._log, self._start, self._end = logarithmic, start, end
        low, high = min(values), max(values)
        if logarithmic:
            self._low, self._high = math.log10(low / 1.15), math.log10(high * 1.15)
        else:
            margin = 0.05 * (high - low) or abs(high) or 1.0
            self._low, self._high = (0.0 if low == 0 else low - margin), high + margin

    def place(self, value: float) -> float:
        position = math.log10(value) if self._log else value
        return self._start + (position - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self) -> list[float]:
        if self._log:
            decades = range(math.floor(self._low), math.ceil(self._high) + 1)
            found = [step * 10.0**decade for decade in decades for step in _TICKS]
            found = [value for value in found if self._low <= math.log10(value) <= self._high]
            return found if len(found) <= 3 * _FEW_TICKS else [x for x in found if math.log10(x).is_integer()]
        rough = (self._high - self._low) / _FEW_TICKS
        decade = 10.0 ** math.floor(math.log10(rough))
        step = next(step * decade for step in (*_TICKS, 10) if step * decade >= rough)
        first = math.ceil(self._low / step)
        return [index * step for index in range(first, math.floor(self._high / step) + 1)]


def _draw_series(pen: ImageDraw.ImageDraw, series: Series, color: str, places: list[Point]) -> None:
    if series.line and len(places) > 1:
        pen.line(places, color, width=3)
    if series.markers:
        for x, y in places:
            pen.ellipse([x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS], fill=color)


def _legend(pen: ImageDraw.ImageDraw, font, index: int, series: Series, color: str) -> None:
    x, y = _WIDTH - _RIGHT + 24, _TOP + 10 + index * (_TEXT + 8)
    pen.rectangle([x, y - 5, x + 22, y + 5], fill=color)
    pen.text((x + 34, y), series.name, _INK, font, anchor="lm")


def _number(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 100_000 else f"{value:.3g}"
