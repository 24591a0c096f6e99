"""A matrix of numbers as a picture: each cell coloured by its logarithm, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..charts import canvas

if TYPE_CHECKING:
    from PIL import Image

_TEXT, _CELL_WIDTH, _CELL_HEIGHT, _MARGIN = 18, 170, 40, 20
_INK, _FRAME, _MISSING = "#222222", "#ffffff", "#dddddd"
_DARKEST = 2.0


def matrix_chart(
    title: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[str], flag: float
) -> Image.Image:
    """Rows of factors; 1 is white, darker orange is larger, blue smaller; those of at least ``flag`` have a frame.

    Args:
        rows: by row and column name; NaN or absent is grey.
    """
    _, pen, font = canvas(1, 1, _TEXT)
    left = _MARGIN * 2 + max(int(font.getlength(name)) for name in rows)
    lines = {column: _wrapped(column, font) for column in columns}
    top = _MARGIN * 2 + _TEXT + max(map(len, lines.values())) * (_TEXT + 4) + 8
    size = (left + len(columns) * _CELL_WIDTH + _MARGIN, top + len(rows) * _CELL_HEIGHT + _MARGIN)
    image, pen, font = canvas(max(size[0], int(font.getlength(title)) + 2 * _MARGIN), size[1], _TEXT)
    pen.text((_MARGIN, _MARGIN), title, _INK, font)
    for index, column in enumerate(columns):
        for place, line in enumerate(reversed(lines[column])):
            centre = left + (index + 0.5) * _CELL_WIDTH
            pen.text((centre, top - 14 - place * (_TEXT + 4)), line, _INK, font, anchor="ms")
    for place, (name, values) in enumerate(rows.items()):
        y = top + place * _CELL_HEIGHT
        pen.text((left - 12, y + _CELL_HEIGHT / 2), name, _INK, font, anchor="rm")
        for index, column in enumerate(columns):
            _cell(pen, font, left + index * _CELL_WIDTH, y, values.get(column, math.nan), flag)
    return image


def _cell(pen, font, x: float, y: float, value: float, flag: float) -> None:
    known = not math.isnan(value)
    box = [x + 1, y + 1, x + _CELL_WIDTH - 2, y + _CELL_HEIGHT - 2]
    flagged = known and value >= flag
    pen.rectangle(box, fill=_color(value) if known else _MISSING, outline=_INK if flagged else _FRAME, width=2)
    text = "-" if not known else f"{value:.2f}" if value < 10 else f"{value:.0f}"
    pen.text((x + _CELL_WIDTH / 2, y + _CELL_HEIGHT / 2), text, _INK, font, anchor="mm")


def _color(value: float) -> tuple[int, int, int]:
    strength = max(-1.0, min(1.0, math.log10(max(value, 1e-9)) / _DARKEST))
    end = (240, 120, 30) if strength > 0 else (70, 130, 200)
    return tuple(round(255 + (channel - 255) * abs(strength)) for channel in end)


def _wrapped(name: str, font) -> list[str]:
    """Words in lines no wider than a cell."""
    lines = [""]
    for word in name.split():
        joined = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(joined) > _CELL_WIDTH - 12:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines
