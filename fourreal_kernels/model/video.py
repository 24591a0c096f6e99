"""A generated grid of frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor


@dataclass
class GridVideo:
    """A grid of V x T frames.

    Attributes:
        frames: ``(V, T, 3, H, W)`` float32 in [0, 1].
        given: ``(V, T)`` bool, the frames that conditioned the others.
        notes: one sentence for everything that was changed or noticed on the way.
        seconds: wall time per stage.
    """

    frames: Tensor
    given: Tensor
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def save(self, directory: str | Path, *, title: str = "4D grid", caption: str | None = None) -> list[Path]:
        """Write ``grid.npz``, ``grid.png``, ``grid.mp4`` and ``index.html`` into ``directory``.

        Returns:
            the paths written.
        """
        from ..data.grid_files import save_grid

        return save_grid(directory, self.frames, given=self.given, title=title, caption=caption)
