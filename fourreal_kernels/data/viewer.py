"""A self-contained HTML page that shows a grid: drag or arrow keys move through view and time."""

import base64
import html
import io
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from .frames import check_given, to_uint8
from .optional import import_optional
from .staging import staged_file

TEMPLATE = Path(__file__).with_name("viewer_template.html")
WEBP_QUALITY = 90
WEBP_MAX_SIDE = 16383
# Small frames are shown enlarged, where the halved colour resolution of lossy WebP shows.
LOSSLESS_MAX_BYTES = 1 << 20
LOSSLESS_MAX_PIXELS = 1 << 22
# Lossy WebP works on blocks of 16 pixels; frames that start on a block do not leak into one another.
BLOCK = 16


def write_viewer(
    path: str | os.PathLike,
    frames: Any,
    *,
    title: str,
    given: Any = None,
    caption: str | None = None,
    fps: int = 8,
) -> None:
    """Write one HTML file that shows the grid without network access, also from ``file://``.

    ``frames`` is float ``(V, T, 3, H, W)`` in [0, 1] or uint8 ``(V, T, H, W, 3)``; ``given`` is bool
    ``(V, T)`` and marks the frames that were input; ``fps`` is the playing speed at the start, 1 to 30. The
    frames are stored as one WebP picture: lossless up to 1 MiB, else of quality 90 (PNG if this Pillow has no
    WebP).

    For scripts and tests ``document.body.dataset`` holds ``view``, ``time``, ``playing``, ``scaling`` and
    ``ready``. Raises ValueError or TypeError for bad frames, ``given`` or ``fps``, VideoError for a place
    that cannot be written.
    """
    pixels = to_uint8(frames, "VT")
    views, times, height, width = pixels.shape[:4]
    mask = check_given(given, views, times)
    if not isinstance(fps, int) or not 1 <= fps <= 30:
        raise ValueError(f"fps: got {fps!r}, expected an integer from 1 to 30")
    atlas, across = _atlas(pixels.reshape(-1, height, width, 3))
    data = {
        "views": views,
        "times": times,
        "width": width,
        "height": height,
        "across": across,
        "pitch_x": _pitch(width),
        "pitch_y": _pitch(height),
        "fps": fps,
        "given": None if mask is None else mask.astype(int).tolist(),
        "atlas": _data_uri(atlas),
    }
    parts = {
        "title": html.escape(title),
        "caption": html.escape(caption or ""),
        "caption_hidden": "" if caption else " hidden",
        # "<" would let the text "</script>" end the data block.
        "data": json.dumps(data).replace("<", "\\u003c"),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
    with staged_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _pitch(side: int) -> int:
    return -(-side // BLOCK) * BLOCK


def _atlas(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """Lay frames ``(F, H, W, 3)`` out in one nearly square picture; return it and the frames per line."""
    count, height, width = pixels.shape[:3]
    pitch_x, pitch_y = _pitch(width), _pitch(height)
    across = min(count, max(1, math.ceil(math.sqrt(count * pitch_y / pitch_x))))
    down = math.ceil(count / across)
    if max(across * pitch_x, down * pitch_y) > WEBP_MAX_SIDE:
        raise ValueError(
            f"frames: {count} frames of {width}x{height} do not fit one picture of at most "
            f"{WEBP_MAX_SIDE} pixels a side; show fewer or smaller frames"
        )
    padding = ((0, 0), (0, pitch_y - height), (0, pitch_x - width), (0, 0))
    tiles = np.zeros((across * down, pitch_y, pitch_x, 3), np.uint8)
    tiles[:count] = np.pad(pixels, padding, mode="edge")
    atlas = tiles.reshape(down, across, pitch_y, pitch_x, 3).swapaxes(1, 2)
    return np.ascontiguousarray(atlas.reshape(down * pitch_y, across * pitch_x, 3)), across


def _data_uri(picture: np.ndarray) -> str:
    image = import_optional("PIL.Image", "writing the viewer").fromarray(picture)
    has_webp = import_optional("PIL.features", "writing the viewer").check("webp")
    encoded = b""
    if not has_webp:
        encoded = _encode(image, "PNG", optimize=True)
    elif image.width * image.height <= LOSSLESS_MAX_PIXELS:
        encoded = _encode(image, "WEBP", lossless=True, method=4)
    if has_webp and not 0 < len(encoded) <= LOSSLESS_MAX_BYTES:
        encoded = _encode(image, "WEBP", quality=WEBP_QUALITY, method=4)
    kind = "webp" if has_webp else "png"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"


def _encode(image: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
