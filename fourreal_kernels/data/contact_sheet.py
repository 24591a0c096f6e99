"""Still pictures of a grid: view from left to right, time from top to bottom, as in the viewer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .frames import check_given, to_uint8
from .optional import import_optional

BACKGROUND = (255, 255, 255)
TEXT_COLOR = (40, 40, 40)
GIVEN_COLOR = (230, 97, 0)
MIN_OUTLINE = 2
LEGEND = "outlined: given frames"


def contact_sheet(
    frames: Any,
    *,
    given: Any = None,
    labels: bool = True,
    gap: int = 2,
    scale: int = 1,
) -> Any:
    """One picture of a whole grid: view from left to right, time from top to bottom.

    ``frames`` is float ``(V, T, 3, H, W)`` in [0, 1] or uint8 ``(V, T, H, W, 3)``; ``given`` is bool
    ``(V, T)`` and outlines the frames that were input. ``gap`` is the space between frames in pixels (at
    least 2 with ``given``, so that an outline hides no pixel); ``scale`` enlarges frames (by repeating
    pixels), gap and outline. Returns a PIL image.
    Raises ValueError or TypeError for other shapes, values or options.
    """
    pixels = to_uint8(frames, "VT")
    mask = check_given(given, *pixels.shape[:2])
    _check_options(gap, scale)
    return _Sheet(pixels, mask, labels, gap, scale).draw()


def comparison_sheet(
    grids: Mapping[str, Any],
    *,
    given: Any = None,
    labels: bool = True,
    gap: int = 2,
    scale: int = 2,
) -> Any:
    """Several grids side by side, each under its name: ``{"generated": frames, "truth": frames}``.

    ``given`` is one bool ``(V, T)`` for all grids or a mapping from a name to one; the other arguments are
    those of :func:`contact_sheet`. Returns a PIL image.
    """
    if not grids:
        raise ValueError("grids: got no grid, expected at least one named grid")
    unknown = set(given) - set(grids) if isinstance(given, Mapping) else set()
    if unknown:
        raise ValueError(f"given: got the unknown names {sorted(unknown)}, expected some of {sorted(grids)}")
    image_module = import_optional("PIL.Image", "drawing a comparison sheet")
    draw_module = import_optional("PIL.ImageDraw", "drawing a comparison sheet")
    sheets = {}
    for name, frames in grids.items():
        mask = given.get(name) if isinstance(given, Mapping) else given
        sheets[name] = contact_sheet(frames, given=mask, labels=labels, gap=gap, scale=scale)

    size = max(16, min(28, max(sheet.height for sheet in sheets.values()) // 24))
    font = load_font(size)
    margin = size
    widths = [max(sheet.width, int(font.getlength(name)) + 1) for name, sheet in sheets.items()]
    title_height = 2 * size
    width = sum(widths) + margin * (len(sheets) + 1)
    height = title_height + max(sheet.height for sheet in sheets.values()) + margin
    picture = image_module.new("RGB", (width, height), BACKGROUND)
    draw = draw_module.Draw(picture)
    left = margin
    for (name, sheet), column_width in zip(sheets.items(), widths, strict=True):
        draw.text((left + column_width / 2, title_height / 2), name, TEXT_COLOR, font, anchor="mm")
        picture.paste(sheet, (left + (column_width - sheet.width) // 2, title_height))
        left += column_width + margin
    return picture


def load_font(size: int) -> Any:
    """Pillow's own scalable font, or its bitmap font where Pillow was built without FreeType."""
    return import_optional("PIL.ImageFont", "drawing labels").load_default(size=size)


def _check_options(gap: int, scale: int) -> None:
    if not isinstance(gap, int) or gap < 0:
        raise ValueError(f"gap: got {gap!r}, expected a non-negative integer of pixels")
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale: got {scale!r}, expected a positive integer")


class _Sheet:
    """Geometry and drawing of one contact sheet."""

    def __init__(
        self, pixels: np.ndarray, given: np.ndarray | None, labels: bool, gap: int, scale: int
    ) -> None:
        self.pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
        self.views, self.times, self.height, self.width = self.pixels.shape[:4]
        self.given = given
        self.outline = MIN_OUTLINE * scale if given is not None else 0
        self.gap = max(gap * scale, self.outline)
        self.font = load_font(max(11, min(24, self.width // 5))) if labels else None
        self.left, self.top, self.right, self.bottom = self._margins()

    def _margins(self) -> tuple[int, int, int, int]:
        border = self.outline
        if self.font is None:
            return border, border, border, border
        pad = self._line_height() // 2
        left = int(self.font.getlength(f"time {self.times - 1}")) + 2 * pad
        top = self._line_height() + pad
        bottom = self._line_height() + pad + border if self._has_legend() else border
        return left, top, max(border, pad), bottom

    def _has_legend(self) -> bool:
        return self.font is not None and self.given is not None and bool(self.given.any())

    def _line_height(self) -> int:
        ascent, descent = self.font.getmetrics()
        return ascent + descent

    def _corner(self, view: int, time: int) -> tuple[int, int]:
        return self.left + view * (self.width + self.gap), self.top + time * (self.height + self.gap)

    def draw(self) -> Any:
        image_module = import_optional("PIL.Image", "drawing a contact sheet")
        draw_module = import_optional("PIL.ImageDraw", "drawing a contact sheet")
        end_x, end_y = self._corner(self.views, self.times)
        width = end_x - self.gap + self.right
        if self._has_legend():
            width = max(width, self.left + int(self.font.getlength(LEGEND)) + self.right)
        size = (width, end_y - self.gap + self.bottom)
        picture = image_module.new("RGB", size, BACKGROUND)
        draw = draw_module.Draw(picture)
        for view, time in np.ndindex(self.views, self.times):
            x, y = self._corner(view, time)
            if self.given is not None and self.given[view, time]:
                border = self.outline
                box = (x - border, y - border, x + self.width + border - 1, y + self.height + border - 1)
                draw.rectangle(box, fill=GIVEN_COLOR)
        for view, time in np.ndindex(self.views, self.times):
            picture.paste(image_module.fromarray(self.pixels[view, time]), self._corner(view, time))
        if self.font is not None:
            self._draw_labels(draw)
        return picture

    def _draw_labels(self, draw: Any) -> None:
        pad = self._line_height() // 2
        widest = self.font.getlength(f"view {self.views - 1}") + pad
        for view in range(0, self.views, _label_step(widest, self.width + self.gap)):
            x = self._corner(view, 0)[0] + self.width / 2
            draw.text((x, self.top - pad / 2), f"view {view}", TEXT_COLOR, self.font, anchor="mb")
        for time in range(0, self.times, _label_step(self._line_height(), self.height + self.gap)):
            y = self._corner(0, time)[1] + self.height / 2
            draw.text((self.left - pad, y), f"time {time}", TEXT_COLOR, self.font, anchor="rm")
        if self._has_legend():
            y = self._corner(0, self.times)[1] - self.gap + self.outline + pad / 2
            draw.text((self.left, y), LEGEND, GIVEN_COLOR, self.font, anchor="la")


def _label_step(label_extent: float, cell_extent: int) -> int:
    """How many cells one label needs, so that labels do not overlap."""
    return max(1, int(np.ceil(label_extent / cell_extent)))
