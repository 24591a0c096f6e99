"""Grids that are rendered on the training device while they are trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .ahead import Ahead
from .scenes import HELD_OUT_SEED
from .stored_grid import GridSample, flow_unit, read_stored, render_stored


@dataclass(frozen=True)
class PoolSettings:
    """A pool of rendered grids.

    Attributes:
        capacity: grids held at most; 1.9 MB each at 8 x 8 frames of 64 x 64.
        uses: how often a grid is drawn, on average, before a new one takes its place.
        start: grids rendered before the training begins.
        family: of the scenes.
        supersample, light_samples: of :func:`fourreal_kernels.data.render`.
        threaded: render in a thread beside the training. Faster on a GPU, but when a grid arrives is then a matter of
            speed; otherwise the training waits for each new grid and is the same every time. None: on a GPU only.
    """

    capacity: int = 512
    uses: float = 60.0
    start: int = 32
    family: str = "easy"
    supersample: int = 2
    light_samples: int = 4
    threaded: bool | None = None

    def __post_init__(self) -> None:
        for name in ("capacity", "uses", "start"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if self.start > self.capacity:
            raise ValueError(f"start: got {self.start}, expected at most capacity={self.capacity}")


class GridPool:
    """A bounded set of grids on a device, renewed as they are drawn; reads like a `GridDataset`.

    The first `kept` grids, of seeds 0 to kept - 1, are never replaced: they are for validation. The others are of the
    seeds from `kept` on, one after the other, none of them held out; of several ranks each renders its own.

    Args:
        size: side of the frames in pixels. views, times: of the grids.
        device: where grids are rendered and stay.
        rank, ranks: which of how many processes this is.
    """

    def __init__(
        self,
        settings: PoolSettings,
        size: int,
        views: int,
        times: int,
        device: torch.device | str,
        *,
        kept: int = 4,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.settings, self.kept, self.rank, self.ranks = settings, kept, rank, ranks
        self.size, self.views, self.times, self.device = size, views, times, torch.device(device)
        self.seeds: list[int] = []
        self._grids: list[dict[str, Tensor]] = []
        self._drawn = self._taken = self._next = self._oldest = 0
        self._ahead: Ahead | None = None

    def fill(self, state: Tensor | None = None) -> None:
        """Render the first grids, or those of a saved :meth:`state`, and start the thread if there is one."""
        counts = [0, 0, 0, 0] if state is None else state[:4].tolist()
        self._drawn, self._taken, self._next, self._oldest = counts
        seeds = [*range(self.kept), *(self._new_seed() for _ in range(self.settings.start))]
        if state is not None:
            self._next = counts[2]
            seeds = state[4:].tolist()[: self.kept + self.settings.capacity]
            self._oldest %= self.settings.capacity
        self.seeds, self._grids = seeds, [self._render(seed) for seed in seeds]
        threaded = self.settings.threaded
        if threaded or (threaded is None and self.device.type == "cuda"):
            self._ahead = Ahead(self._render_next, self.device)

    def state(self) -> Tensor:
        """Everything :meth:`fill` needs, int64: four counts and the seeds. Grids rendered ahead are not in it."""
        return torch.tensor([self._drawn, self._taken, self._next, self._oldest, *self.seeds])

    def advance(self, drawn: int) -> int:
        """Take in the new grids that are due after `drawn` more were drawn; returns their number.

        One is due per `uses` draws. While a pool with a thread is not full it takes whatever is ready.
        """
        self._drawn += drawn
        added = 0
        while self._taken < int(self._drawn / self.settings.uses) or (self._ahead is not None and not self._full):
            grid = self._render_next() if self._ahead is None else self._ahead.take()
            if grid is None:
                break
            self._insert(*grid)
            added += 1
        return added

    def close(self) -> None:
        """End the thread."""
        if self._ahead is not None:
            self._ahead.close()

    def __len__(self) -> int:
        return len(self._grids)

    def frames(self, index: int) -> Tensor:
        """Frames (V, T, 3, H, W) uint8 of grid `index`."""
        return self._grids[index]["frames"]

    def __getitem__(self, index: int) -> GridSample:
        return read_stored(self._grids[index], self.seeds[index], flow_unit(self.size))

    @property
    def _full(self) -> bool:
        return len(self) >= self.kept + self.settings.capacity

    def _insert(self, seed: int, grid: dict[str, Tensor]) -> None:
        self._taken += 1
        if self._full:
            self._grids[self.kept + self._oldest], self.seeds[self.kept + self._oldest] = grid, seed
            self._oldest = (self._oldest + 1) % self.settings.capacity
        else:
            self._grids.append(grid)
            self.seeds.append(seed)

    def _new_seed(self) -> int:
        index = self._next * self.ranks + self.rank
        self._next += 1
        return self.kept + index % (HELD_OUT_SEED - self.kept)

    def _render_next(self) -> tuple[int, dict[str, Tensor]]:
        seed = self._new_seed()
        return seed, self._render(seed)

    def _render(self, seed: int) -> dict[str, Tensor]:
        settings = self.settings
        frames = self.views * self.times if self.device.type == "cuda" else 1
        return render_stored(
            seed, settings.family, self.size, views=self.views, times=self.times, supersample=settings.supersample,
            light_samples=settings.light_samples, chunk=frames, device=self.device,
        )
