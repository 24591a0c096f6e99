"""A decoded clip, and the collector that every reader fills."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .frames import video_error

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".ogv", ".wmv", ".flv",
)  # fmt: skip
ANIMATION_SUFFIXES = (".gif", ".webp")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SUPPORTED = (
    f"a video file ({' '.join(VIDEO_SUFFIXES)}), an animation ({' '.join(ANIMATION_SUFFIXES)}) "
    f"or a folder of images ({' '.join(IMAGE_SUFFIXES)})"
)

# Thinning for memory leaves at least this many frames.
MIN_KEPT_FRAMES = 64


@dataclass(frozen=True)
class Clip:
    """Decoded frames, uint8 ``(F, H, W, 3)`` RGB, and what was done to them.

    ``fps`` is None where the source states no frame rate. ``notes`` has one sentence for each change that was
    made or not undone on the way in (rotation, alpha, pixel aspect, dropped frames, ignored files).
    ``source_frames`` is the number of frames that were read, of which ``frames`` may hold a part, and
    ``source_fps`` their rate.
    """

    frames: np.ndarray
    fps: float | None
    source: str
    notes: list[str] = field(default_factory=list)
    source_frames: int | None = None
    source_fps: float | None = None


class ClipCollector:
    """Takes the frames of a source in order, of which all must have one size, and keeps those wanted.

    At most the first ``max_frames`` are taken. With ``evenly``, and once the source has stated its length by
    :meth:`expect`, that many evenly spaced frames are kept. Otherwise all are kept, unless they exceed
    ``max_bytes``: then every second one is dropped and only every second further one is kept, and so on.
    """

    def __init__(self, path: Path, max_frames: int | None, max_bytes: int, evenly: int | None) -> None:
        self.path = path
        self.max_frames = max_frames
        self.max_bytes = max_bytes
        self.evenly = evenly
        self.notes: dict[str, None] = {}
        self._clear()

    def _clear(self) -> None:
        self.seen = 0
        self.stride = 1
        self.size: tuple[int, int] | None = None
        self.expected: int | None = None
        self.wanted: list[int] | None = None
        self.kept: list[np.ndarray] = []

    def expect(self, total: int) -> None:
        """Start anew, for a source of ``total`` frames."""
        self._clear()
        self.expected = total if self.max_frames is None else min(total, self.max_frames)
        if self.evenly is not None and self.evenly < self.expected:
            self.wanted = even_indices(self.expected, self.evenly)

    @property
    def full(self) -> bool:
        return self.max_frames is not None and self.seen >= self.max_frames

    @property
    def misjudged(self) -> bool:
        """Whether frames were chosen for a length that proved wrong."""
        return self.expected is not None and self.expected != self.seen

    def note(self, sentence: str) -> None:
        self.notes[sentence] = None

    def add(self, size: tuple[int, int], to_rgb: Callable[[], np.ndarray], name: str = "") -> None:
        """Take the next frame, of ``size`` (width, height); ``to_rgb`` is called only if it is kept."""
        self.size = self.size or size
        if size != self.size:
            where = f" ({name})" if name else ""
            got = f"frame {self.seen}{where} is {_text(size)}, the frames before it are {_text(self.size)}"
            raise video_error(self.path, got, "frames of one size (width x height)")
        if self.wanted is not None:
            if self.seen in self.wanted:
                self.kept.append(to_rgb())
        elif self.seen % self.stride == 0:
            self.kept.append(to_rgb())
            self._thin()
        self.seen += 1

    def _thin(self) -> None:
        too_large = len(self.kept) * self.kept[0].nbytes > self.max_bytes
        if too_large and len(self.kept) >= 2 * MIN_KEPT_FRAMES:
            self.kept = self.kept[::2]
            self.stride *= 2

    def clip(self, fps: float | None) -> Clip:
        """The clip kept, of a source of ``fps`` frames per second; VideoError if there is none."""
        if not self.kept:
            raise video_error(self.path, "no frame could be decoded", "at least one frame")
        if self.full:
            self.note(f"reading stopped after {self.seen} frames (max_frames={self.max_frames})")
        if self.wanted is not None:
            self.note(resampling_note(self.seen, self.wanted))
            gap = (
                (self.wanted[-1] - self.wanted[0]) / (len(self.wanted) - 1) if len(self.wanted) > 1 else None
            )
        else:
            gap = self.stride
        if self.stride > 1:
            self.note(
                f"one in {self.stride} of {self.seen} frames of {_text(self.size)} was kept, "
                f"to hold at most {self.max_bytes / 2**20:.0f} MiB in memory (max_bytes)"
            )
        kept_fps = fps / gap if fps and gap else None
        return Clip(np.stack(self.kept), kept_fps, str(self.path), list(self.notes), self.seen, fps)


def even_indices(total: int, count: int) -> list[int]:
    """``count`` of ``total`` indices at even gaps, first and last included (only the first for one)."""
    # Integer rounding half up, so that the indices do not depend on float rounding.
    gaps = max(count - 1, 1)
    return [(2 * step * (total - 1) + gaps) // (2 * gaps) for step in range(count)]


def resampling_note(total: int, indices: list[int]) -> str:
    """The sentence that states which frames were taken."""
    count = len(indices)
    every = f", every {_ordinal((total - 1) / (count - 1))}" if count > 1 else ""
    return f"{total} frames -> {count}{every}: indices {', '.join(map(str, indices))}"


def _ordinal(value: float) -> str:
    text = f"{value:.1f}".removesuffix(".0")
    if text[-2:] in ("11", "12", "13"):
        return text + "th"
    return text + {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th")


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def on_black(rgba: np.ndarray, collector: ClipCollector) -> np.ndarray:
    """Composite uint8 ``(H, W, 4)`` on black into ``(H, W, 3)``, with a note if any pixel is transparent."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    collector.note("transparent pixels were composited on black")
    return ((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8)
