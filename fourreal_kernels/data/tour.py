"""A film through a grid: the order of its frames, and the frames with their position written below them."""

import math
from typing import Any

import numpy as np

from .contact_sheet import GIVEN_COLOR, load_font
from .frames import check_given, to_uint8
from .optional import import_optional

MIN_SIDE = 256
STRIP_COLOR = (24, 24, 28)
TEXT_COLOR = (235, 235, 235)


def tour_order(views: int, times: int) -> list[tuple[int, int]]:
    """The (view, time) of each frame of the film, every step to a neighbouring frame.

    First once around the border: time forward at view 0, views forward at the last time, time backward at the
    last view, views backward at time 0. Then through every frame: time forward at view 0, backward at view 1,
    and so on. A single view or time is shown to and fro.
    """
    last_view, last_time = views - 1, times - 1
    border = [(0, time) for time in range(times)]
    border += [(view, last_time) for view in range(1, views)]
    border += [(last_view, time) for time in range(last_time - 1, -1, -1)]
    border += [(view, 0) for view in range(last_view - 1, -1, -1)]
    if views == 1 or times == 1:
        return border
    through = [
        (view, time if view % 2 == 0 else last_time - time) for view in range(views) for time in range(times)
    ]
    return border + through[1:]


def tour_frames(frames: Any, *, given: Any = None) -> np.ndarray:
    """The film of :func:`tour_order` as uint8 ``(F, H', W', 3)``.

    ``frames`` is float ``(V, T, 3, H, W)`` in [0, 1] or uint8 ``(V, T, H, W, 3)``. Pixels are repeated until
    the shorter side has at least 256; a strip below each frame states its view and time and, with ``given``
    (bool ``(V, T)``), whether it was given or generated.
    """
    pixels = to_uint8(frames, "VT")
    views, times, height, width = pixels.shape[:4]
    mask = check_given(given, views, times)
    scale = math.ceil(MIN_SIDE / min(height, width))
    strips = {}
    film = []
    for view, time in tour_order(views, times):
        if (view, time) not in strips:
            strips[view, time] = _strip(width * scale, view, time, mask)
        picture = pixels[view, time].repeat(scale, axis=0).repeat(scale, axis=1)
        film.append(np.concatenate([picture, strips[view, time]]))
    return np.stack(film)


def _strip(width: int, view: int, time: int, given: np.ndarray | None) -> np.ndarray:
    image_module = import_optional("PIL.Image", "writing the film of a grid")
    draw_module = import_optional("PIL.ImageDraw", "writing the film of a grid")
    size = max(16, min(28, width // 18))
    strip = image_module.new("RGB", (width, 2 * size), STRIP_COLOR)
    draw = draw_module.Draw(strip)
    font = load_font(size)
    draw.text((size, size), f"view {view}   time {time}", TEXT_COLOR, font, anchor="lm")
    if given is not None:
        is_given = bool(given[view, time])
        color = GIVEN_COLOR if is_given else TEXT_COLOR
        draw.text((width - size, size), "given" if is_given else "generated", color, font, anchor="rm")
    return np.asarray(strip)
