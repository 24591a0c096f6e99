"""Reading of GIF and WebP animations and of folders of images with Pillow."""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

from .clip import IMAGE_SUFFIXES, Clip, ClipCollector, on_black
from .frames import VideoError, video_error
from .optional import import_optional


def _image_error(path: Path, image_path: Path, error: Exception) -> VideoError:
    where = "" if image_path == path else f"{image_path.name}: "
    expected = f"intact {' '.join(IMAGE_SUFFIXES)} or .gif data"
    return video_error(path, f"{where}not an intact image ({error})", expected)


def _image_to_rgb(image: Any, collector: ClipCollector) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        got = f"{Path(getattr(image, 'filename', '')).name or 'an image'} has pixel mode {image.mode}"
        raise video_error(collector.path, got, "8-bit grey, palette, RGB or RGBA images")
    if image.has_transparency_data:
        return on_black(np.asarray(image.convert("RGBA")), collector)
    return np.array(image.convert("RGB"))


def read_animation(path: Path, collector: ClipCollector) -> Clip:
    """Read a GIF or WebP file; see :func:`fourreal_kernels.data.video.read_video`."""
    pillow = import_optional("PIL.Image", f"reading {path.suffix} files")
    durations = []
    try:
        with pillow.open(path) as image:
            count = getattr(image, "n_frames", 1)
            collector.expect(count)
            for index in range(count):
                image.seek(index)
                image.load()
                durations.append(image.info.get("duration", 0))
                collector.add(image.size, lambda: _image_to_rgb(image, collector))
                if collector.full:
                    break
    except (PermissionError, VideoError):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        raise _image_error(path, path, error) from error
    if len(set(durations)) > 1:
        shortest, longest = min(durations), max(durations)
        collector.note(
            f"frames are shown for {shortest} to {longest} ms; each is taken once, fps is the mean"
        )
    total = sum(durations)
    return collector.clip(1000 * len(durations) / total if total else None)


def _natural_key(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _folder_images(path: Path, collector: ClipCollector) -> list[Path]:
    files = [entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    images = sorted((file for file in files if file.suffix.lower() in IMAGE_SUFFIXES), key=_natural_key)
    if not images:
        got = f"no image among the {len(files)} files of this folder" if files else "an empty folder"
        raise video_error(path, got, f"a folder of images ({' '.join(IMAGE_SUFFIXES)})")
    if len(images) < len(files):
        collector.note(f"{len(files) - len(images)} files of the folder that are not images were ignored")
    return images


def read_folder(path: Path, collector: ClipCollector) -> Clip:
    """Read a folder of images; see :func:`fourreal_kernels.data.video.read_video`."""
    pillow = import_optional("PIL.Image", "reading a folder of images")
    ops = import_optional("PIL.ImageOps", "reading a folder of images")
    images = _folder_images(path, collector)
    collector.expect(len(images))
    for image_path in images:
        try:
            with pillow.open(image_path) as image:
                if getattr(image, "n_frames", 1) > 1:
                    collector.note("only the first frame of animated images was taken")
                if image.getexif().get(0x0112, 1) != 1:
                    collector.note("images were turned upright, as their EXIF orientation asks")
                upright = ops.exif_transpose(image)
                to_rgb = functools.partial(_image_to_rgb, upright, collector)
                collector.add(upright.size, to_rgb, image_path.name)
        except (PermissionError, VideoError):
            raise
        except Exception as error:  # Pillow's decoders raise many kinds on damaged data
            raise _image_error(path, image_path, error) from error
        if collector.full:
            break
    return collector.clip(None)
