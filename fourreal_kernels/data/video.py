"""Video input and output: ``read_video``, ``fit_clip``, ``write_video``."""

import os
import stat
from pathlib import Path

from .clip import ANIMATION_SUFFIXES, IMAGE_SUFFIXES, SUPPORTED, VIDEO_SUFFIXES, Clip, ClipCollector
from .frames import VideoError, video_error
from .read_container import read_container
from .read_images import read_animation, read_folder
from .video_fit import fit_clip
from .video_write import write_video

__all__ = ["Clip", "VideoError", "fit_clip", "read_video", "write_video"]

DEFAULT_MAX_BYTES = 512 << 20


def read_video(
    path: str | os.PathLike,
    *,
    max_frames: int | None = None,
    evenly: int | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Clip:
    """Read a clip from a video file, a GIF or WebP animation, or a folder of images in natural order.

    ``max_frames`` stops reading after that many frames. ``evenly`` keeps only that many frames, at the evenly
    spaced indices that :func:`fit_clip` would take; it is the way to sample a long clip without holding it.
    Else a clip whose decoded frames exceed ``max_bytes`` is thinned evenly to no fewer than 64 frames.
    Rotation metadata is applied and alpha is composited on black. ``Clip.notes`` tells all of this.

    Raises VideoError (one line) for a path that is missing, unreadable, empty, of an unsupported kind, not a
    video, truncated or damaged, or whose frames differ in size; ImportError without PyAV or Pillow.
    """
    for name, value in (("max_frames", max_frames), ("evenly", evenly)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}: got {value!r}, expected a positive integer or None")
    path = Path(path)
    is_folder = _check_readable(path)
    collector = ClipCollector(path, max_frames, max_bytes, evenly)
    try:
        if is_folder:
            return read_folder(path, collector)
        suffix = path.suffix.lower()
        if suffix in ANIMATION_SUFFIXES:
            return read_animation(path, collector)
        if suffix in VIDEO_SUFFIXES:
            return read_container(path, collector)
    except PermissionError as error:
        raise video_error(path, "no permission to read it", "a readable file or folder") from error
    single = "a single image, put the frames in a folder" if suffix in IMAGE_SUFFIXES else "unsupported"
    raise video_error(path, f"file type {path.suffix or '(no suffix)'!r} ({single})", SUPPORTED)


def _check_readable(path: Path) -> bool:
    """Whether ``path`` is a folder; VideoError if it is missing, unreadable or neither file nor folder."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise video_error(path, "no such file or folder", SUPPORTED) from error
    except PermissionError as error:
        raise video_error(path, "no permission to read it", "a readable file or folder") from error
    except (OSError, ValueError) as error:
        raise video_error(path, f"not a usable path ({error})", SUPPORTED) from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise video_error(path, "neither a regular file nor a folder", SUPPORTED)
    return stat.S_ISDIR(mode)
