"""The files of one grid: frames, contact sheet, film and viewer."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .contact_sheet import contact_sheet
from .frames import check_given, to_uint8
from .staging import staged_folder
from .tour import tour_frames
from .video_write import write_video
from .viewer import write_viewer

SHEET_FRAME_SIDE = 96


def save_grid(
    folder: str | os.PathLike,
    frames: Any,
    *,
    given: Any = None,
    title: str = "",
    caption: str | None = None,
    fps: int = 8,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> list[Path]:
    """Write a grid to ``folder`` and return the paths of the files.

    ``frames`` is float ``(V, T, 3, H, W)`` in [0, 1] or uint8 ``(V, T, H, W, 3)``; ``given``, bool
    ``(V, T)``, marks the frames that were input; ``fps`` is a whole number of frames per second, 1 to 30.
    Files:

    - ``grid.npz``: ``frames`` uint8 ``(V, T, H, W, 3)``, ``given`` if there is one, the entries of ``arrays``
    - ``grid.png``: :func:`contact_sheet`, small frames enlarged
    - ``grid.mp4``: the film of :func:`fourreal_kernels.data.tour.tour_order`, once around the border of the
      grid and then through all its frames, at least 256 pixels high and wide, its position written below
    - ``index.html``: the viewer of :func:`write_viewer`

    The folder is made if needed; files of these names are replaced, others stay. All files are complete
    before the first one appears; on any error nothing is written.
    Raises ValueError or TypeError for bad arguments, VideoError for a folder that cannot be written,
    ImportError without Pillow or PyAV.
    """
    pixels = to_uint8(frames, "VT")
    mask = check_given(given, *pixels.shape[:2])
    contents = {"frames": pixels} | ({} if mask is None else {"given": mask})
    clash = set(contents) & set(arrays or {})
    if clash:
        raise ValueError(f"arrays: got the reserved names {sorted(clash)}, expected other names")
    names = ["grid.npz", "grid.png", "grid.mp4", "index.html"]
    with staged_folder(folder) as stage:
        write_viewer(
            stage / "index.html", pixels, title=title or "4D grid", given=mask, caption=caption, fps=fps
        )
        np.savez_compressed(stage / "grid.npz", **contents, **(arrays or {}))
        scale = max(1, -(-SHEET_FRAME_SIDE // min(pixels.shape[2:4])))
        contact_sheet(pixels, given=mask, scale=scale).save(stage / "grid.png")
        write_video(stage / "grid.mp4", tour_frames(pixels, given=mask), fps)
    return [Path(folder) / name for name in names]
