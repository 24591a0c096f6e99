"""Writing of clips: mp4 (PyAV), GIF and animated WebP and folders of PNG files (Pillow)."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .frames import to_uint8, video_error
from .optional import import_optional
from .staging import staged_file

WRITABLE = ".mp4, .gif, .webp, or no suffix for a folder of PNG files"
H264_CRF = "12"
FULL_COLOR_CRF = "2"
WEBP_QUALITY = 90
BT709 = 1
LIMITED_RANGE = 1
CENTRED = "chromaloc=1"


def write_video(
    path: str | os.PathLike, frames: Any, fps: float = 8, *, scale: int = 1, full_color: bool = False
) -> list[str]:
    """Write ``frames`` to ``path`` and return one sentence for each change the format made necessary.

    ``frames`` is float ``(F, 3, H, W)`` in [0, 1] or uint8 ``(F, H, W, 3)``. The suffix of ``path`` selects
    the format: ``.mp4`` (H.264, yuv420p, BT.709), ``.gif``, ``.webp``, or none: a new folder of PNG files.
    ``scale`` repeats each pixel ``scale`` times in both directions; mp4 halves the resolution of colour, so
    small frames with sharp edges keep their colours only with a ``scale`` of 2 or more, or with
    ``full_color`` (mp4 only): yuv444p and almost no loss, for clips that are read again; browsers may refuse
    it. ``fps`` is in frames per second.
    The file appears under its name only when it is complete.

    Raises VideoError for another suffix or a place that cannot be written, ValueError or TypeError for bad
    ``frames``, ``fps`` or ``scale``, ImportError without PyAV or Pillow.
    """
    path = Path(path)
    mp4_writer = _write_full_color_mp4 if full_color else _write_mp4
    writers = {".mp4": mp4_writer, ".gif": _write_gif, ".webp": _write_webp, "": _write_folder}
    if path.suffix.lower() not in writers:
        raise video_error(path, f"file type {path.suffix!r}", WRITABLE)
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale: got {scale!r}, expected a positive integer")
    if not 0 < fps <= 1000:
        raise ValueError(f"fps: got {fps!r}, expected frames per second in (0, 1000]")
    if full_color and path.suffix.lower() != ".mp4":
        raise ValueError(f"full_color: got True for {path.name}, expected a name that ends in .mp4")
    pixels = to_uint8(frames, "F")
    notes = []
    if scale > 1:
        pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
        notes.append(f"each pixel is written as {scale}x{scale} pixels")
    with staged_file(path) as temporary:
        try:
            notes += writers[path.suffix.lower()](temporary, pixels, fps)
        except OSError as error:
            got = f"it could not be written ({error})"
            raise video_error(path, got, "a writable place with room") from error
    return notes


def _pad_to_even(pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    height, width = pixels.shape[1:3]
    if height % 2 == 0 and width % 2 == 0:
        return pixels, []
    padded = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    new_height, new_width = padded.shape[1:3]
    sizes = f"{width}x{height} -> {new_width}x{new_height}"
    return padded, [f"padded {sizes} by repeating the last pixels: mp4 needs even sides"]


def _write_full_color_mp4(path: Path, pixels: np.ndarray, fps: float) -> list[str]:
    return _write_mp4(path, pixels, fps, "yuv444p", FULL_COLOR_CRF)


def _write_mp4(
    path: Path, pixels: np.ndarray, fps: float, pixel_format: str = "yuv420p", crf: str = H264_CRF
) -> list[str]:
    av = import_optional("av", "writing .mp4 files")
    convert = import_optional("av.video.reformatter", "writing .mp4 files")
    kind = convert.Interpolation
    # The quick default rounds colours down by one level. Averaging puts colour samples at the centre of the
    # pixels they cover, which CENTRED tells the decoder.
    averaging = kind.AREA | kind.FULL_CHR_H_INP | kind.ACCURATE_RND
    to_yuv = {"dst_colorspace": convert.Colorspace.ITU709, "interpolation": averaging}
    pixels, notes = _pad_to_even(pixels)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        options = {"crf": crf, "preset": "medium", "x264-params": CENTRED}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        for picture in pixels:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=pixel_format, **to_yuv)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return notes


def _merged_note(pixels: np.ndarray, name: str) -> list[str]:
    repeats = sum(np.array_equal(first, second) for first, second in zip(pixels, pixels[1:], strict=False))
    if not repeats:
        return []
    stored = len(pixels) - repeats
    return [f"{name} joins equal neighbours: {len(pixels)} frames are stored as {stored}, shown longer"]


def _write_gif(path: Path, pixels: np.ndarray, fps: float) -> list[str]:
    pillow = import_optional("PIL.Image", "writing .gif files")
    centiseconds = max(1, round(100 / fps))
    notes = _merged_note(pixels, "GIF")
    if abs(100 / centiseconds - fps) > 1e-3:
        notes.append(f"GIF counts in 10 ms: {100 / centiseconds:.3g} frames per second stored for {fps:g}")
    pictures = [pillow.fromarray(picture).quantize(256) for picture in pixels]
    pictures[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=10 * centiseconds,
        loop=0,
    )
    return notes


def _write_webp(path: Path, pixels: np.ndarray, fps: float) -> list[str]:
    pillow = import_optional("PIL.Image", "writing .webp files")
    pictures = [pillow.fromarray(picture) for picture in pixels]
    pictures[0].save(
        path,
        format="WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=max(1, round(1000 / fps)),
        loop=0,
        quality=WEBP_QUALITY,
        method=4,
    )
    return _merged_note(pixels, "WebP")


def _write_folder(path: Path, pixels: np.ndarray, fps: float) -> list[str]:
    pillow = import_optional("PIL.Image", "writing PNG files")
    path.mkdir()
    digits = max(4, len(str(len(pixels) - 1)))
    for index, picture in enumerate(pixels):
        pillow.fromarray(picture).save(path / f"{index:0{digits}d}.png")
    return ["a folder of PNG files stores no frame rate"]
