"""Reading of video files with PyAV."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .clip import Clip, ClipCollector, on_black
from .frames import video_error
from .optional import import_optional

# A file whose pictures end this much earlier than its header says has lost its end.
TRUNCATED_FRACTION = 0.1
INTACT = "an intact video file"


def read_container(path: Path, collector: ClipCollector) -> Clip:
    """Read a video file; see :func:`fourreal_kernels.data.video.read_video`."""
    if collector.evenly is not None:
        with _video_stream(path) as (container, stream):
            collector.expect(sum(packet.size > 0 for packet in container.demux(stream)))
    clip = _read(path, collector)
    if collector.misjudged:
        # Some packets hold no frame or several; now the number of frames is known.
        collector.expect(collector.seen)
        clip = _read(path, collector)
    return clip


def _read(path: Path, collector: ClipCollector) -> Clip | None:
    with _video_stream(path, collector) as (container, stream):
        times = _decode(container, stream, collector)
        if not collector.full and _has_lost_its_end(container, stream, times):
            got = f"cut off: {collector.seen} frames could be read, fewer than its header states"
            raise video_error(path, got, INTACT)
        return None if collector.misjudged else collector.clip(_frame_rate(stream, times, collector))


@contextlib.contextmanager
def _video_stream(path: Path, collector: ClipCollector | None = None) -> Iterator[tuple[Any, Any]]:
    """The opened container and its first video stream; errors of the block become VideoError."""
    av = import_optional("av", f"reading {path.suffix} files")
    # A file object, not the name: FFmpeg would take a name such as "concat:a.mp4" for a protocol.
    with open(path, "rb") as handle:
        if not os.fstat(handle.fileno()).st_size:
            raise video_error(path, "the file is empty", INTACT)
        try:
            container = av.open(handle)
        except (av.FFmpegError, OSError, ValueError) as error:
            got = f"not a video, or its header is damaged or cut off ({_reason(error)})"
            raise video_error(path, got, INTACT) from error
        with container:
            if not container.streams.video:
                raise video_error(path, "it has no video stream", INTACT)
            try:
                yield container, container.streams.video[0]
            except (av.FFmpegError, EOFError) as error:
                after = f" after {collector.seen} frames" if collector else ""
                raise video_error(path, f"damaged or cut off{after} ({_reason(error)})", INTACT) from error


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error


def _decode(container: Any, stream: Any, collector: ClipCollector) -> list[float]:
    """Decode into ``collector``; return the time in seconds of each frame that states one."""
    stream.thread_type = "AUTO"
    if stream.metadata.get("alpha_mode") == "1":
        collector.note("the alpha layer of the file was not decoded")
    ratio = stream.sample_aspect_ratio
    if ratio and ratio != 1:
        collector.note(f"pixels are {ratio.numerator}:{ratio.denominator} (width:height), kept as if square")
    times = []
    for packet in container.demux(stream):
        for frame in packet.decode():
            if packet.is_corrupt or frame.is_corrupt:
                got = f"frame {collector.seen} is damaged or cut off"
                raise video_error(collector.path, got, INTACT)
            size = (frame.width, frame.height)
            collector.add(size, lambda frame=frame: _frame_to_rgb(frame, collector))
            if frame.time is not None:
                times.append(frame.time)
            if collector.full:
                return times
    return times


def _frame_to_rgb(frame: Any, collector: ClipCollector) -> np.ndarray:
    kind = import_optional("av.video.reformatter", "reading video files").Interpolation
    # The quick default rounds colours down by one level and repeats colour samples instead of interpolating.
    smooth = kind.BICUBIC | kind.FULL_CHR_H_INT | kind.ACCURATE_RND
    components = frame.format.components
    if any(component.is_alpha for component in components):
        rgb = on_black(frame.to_ndarray(format="rgba", interpolation=smooth), collector)
    else:
        rgb = frame.to_ndarray(format="rgb24", interpolation=smooth)
    if any(component.bits > 8 for component in components):
        collector.note(f"{max(component.bits for component in components)}-bit frames were reduced to 8 bits")
    quarter_turns = round(frame.rotation / 90) % 4
    if quarter_turns:
        degrees = quarter_turns * 90
        collector.note(f"rotated by {degrees} degrees counter-clockwise, as the file's metadata asks")
        rgb = np.rot90(rgb, quarter_turns)
    return np.ascontiguousarray(rgb)


def _frame_rate(stream: Any, times: list[float], collector: ClipCollector) -> float | None:
    gaps = np.diff(times)
    if len(gaps) and gaps.min() > 0 and gaps.max() > 1.5 * gaps.min():
        spread = f"{gaps.min():.3f} to {gaps.max():.3f} s apart"
        collector.note(f"frames are {spread} in the file; each is taken once, fps is the mean")
        return float(1 / gaps.mean())
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def _has_lost_its_end(container: Any, stream: Any, times: list[float]) -> bool:
    # The mov/mp4 demuxer reports missing data itself, and its edit lists make shorter playback legitimate.
    if "mov" in container.format.name or not times:
        return False
    if stream.duration:
        stated = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:
        stated = container.duration / 1e6
    else:
        return False
    frame_seconds = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    start = float(stream.start_time * stream.time_base) if stream.start_time else 0.0
    missing = stated - (times[-1] - start + frame_seconds)
    return missing > max(TRUNCATED_FRACTION * stated, 2 * frame_seconds)
