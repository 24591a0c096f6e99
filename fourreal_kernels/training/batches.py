"""Training batches: sub-grids, lines or pseudo-4D grids with their masks and noise levels."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..data.dataset import GridDataset
from ..data.pseudo4d import pseudo_4d
from ..data.scenes import is_held_out
from ..model.conditioning import cross_mask
from .config import Phase


@dataclass
class TrainingBatch:
    """One step's samples.

    Attributes:
        frames: ``(B, V, T, 3, H, W)`` clean, in [-1, 1].
        given: ``(B, V, T)`` bool.
        sigma: ``(B,)``.
        streams: which streams of the model run, see ``GridTransformer.forward``.
        view_index, time_index: ``(V,)``, ``(T,)``.
        flow, visible: ``(B, 2, V, T, 2, H, W)`` pixels and ``(B, 2, V, T, H, W)`` bool: matches in the first timestep
            of the same view and in the first view of the same timestep; None where unknown.
    """

    frames: Tensor
    given: Tensor
    sigma: Tensor
    streams: str
    view_index: Tensor
    time_index: Tensor
    flow: Tensor | None = None
    visible: Tensor | None = None

    def to(self, device: str | torch.device) -> TrainingBatch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return TrainingBatch(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()})


class BatchSampler:
    """Draws batches from a data set; the state of ``generator`` is all its state.

    Args:
        dataset: rendered grids; those of held-out seeds are never drawn.
        generator: source of all randomness.
        exclude: indices that are never drawn.
    """

    def __init__(self, dataset: GridDataset, generator: torch.Generator, exclude: frozenset[int] = frozenset()):
        self.dataset = dataset
        self.generator = generator
        self.exclude = exclude

    def draw(self, phase: Phase) -> TrainingBatch:
        """A batch for ``phase``."""
        sampler = {"grids": self._grids, "lines": self._lines, "pseudo4d": self._pseudo4d}[phase.samples]
        batch = sampler(phase)
        batch.sigma = self._sigma(phase, batch.frames.shape[0])
        return batch

    def _integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.generator))

    def _chance(self, probability: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < probability

    def _subset(self, size: int, count: int) -> Tensor:
        """``count`` indices of ``range(size)`` in order, the first always among them."""
        rest = 1 + torch.randperm(size - 1, generator=self.generator)[: count - 1]
        return torch.cat([torch.zeros(1, dtype=torch.long), rest.sort().values])

    def _index(self) -> int:
        while True:
            index = self._integer(len(self.dataset))
            if index not in self.exclude and not is_held_out(self.dataset.seeds[index]):
                return index

    def _sigma(self, phase: Phase, count: int) -> Tensor:
        normal = torch.randn(count, generator=self.generator)
        sigma = torch.sigmoid(phase.sigma_mean + phase.sigma_std * normal)
        noise = torch.rand(count, generator=self.generator) < phase.pure_noise
        return torch.where(noise, 1.0, sigma)

    def _colours(self, frames: Tensor) -> Tensor:
        """uint8 to [-1, 1] with the colour channels permuted."""
        order = torch.randperm(3, generator=self.generator)
        return frames[..., order, :, :].float() / 127.5 - 1

    def _given(self, phase: Phase, views: int, times: int) -> Tensor:
        if not self._chance(phase.random_mask):
            return cross_mask(views, times)
        density = 0.1 + 0.5 * torch.rand((), generator=self.generator)
        given = torch.rand(views, times, generator=self.generator) < density
        if not given.any():
            given[self._integer(views), self._integer(times)] = True
        return given

    def _grids(self, phase: Phase) -> TrainingBatch:
        first = self.dataset.frames(0)
        views, times = self._subset(first.shape[0], phase.views), self._subset(first.shape[1], phase.times)
        samples = [self._sub_grid(views, times) for _ in range(phase.batch)]
        given = self._given(phase, phase.views, phase.times)
        flow, visible = torch.stack([s[1] for s in samples]), torch.stack([s[2] for s in samples])
        is_cross = torch.equal(given, cross_mask(phase.views, phase.times))
        return TrainingBatch(
            frames=torch.stack([s[0] for s in samples]),
            given=given.expand(phase.batch, -1, -1),
            sigma=torch.empty(0),
            streams="both",
            view_index=views,
            time_index=times,
            flow=flow if is_cross else None,
            visible=visible if is_cross else None,
        )

    def _sub_grid(self, views: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sample = self.dataset[self._index()]
        frames = self._colours(sample.frames[views][:, times])
        flow = torch.stack([sample.flow.flow_from_freeze, sample.flow.flow_from_fixed])[:, views][:, :, times]
        visible = torch.stack([sample.flow.visible_from_freeze, sample.flow.visible_from_fixed])[:, views][:, :, times]
        if self._chance(0.5):
            frames, flow, visible = frames.flip(-1), flow.flip(-1).clone(), visible.flip(-1)
            flow[:, :, :, 0] *= -1
        return frames, flow, visible

    def _line(self, time_line: bool) -> Tensor:
        """A clip ``(F, 3, H, W)`` in [-1, 1]: the timesteps of a random view, or the views of a random timestep."""
        grid = self.dataset.frames(self._index())
        clip = grid[self._integer(grid.shape[0])] if time_line else grid[:, self._integer(grid.shape[1])]
        clip = self._colours(clip)
        if self._chance(0.5):
            clip = clip.flip(-1)
        return clip.flip(0) if self._chance(0.5) else clip

    def _lines(self, phase: Phase) -> TrainingBatch:
        time_line = self._chance(0.5)
        clips = torch.stack([self._line(time_line) for _ in range(phase.batch)])
        frames = clips[:, None] if time_line else clips[:, :, None]
        views, times = frames.shape[1:3]
        given = self._given(phase, views, times)
        if given.all():
            # The cross of a line is the whole line, which would leave nothing to learn.
            given = torch.zeros_like(given)
            given[0, 0] = True
        return TrainingBatch(
            frames=frames,
            given=given.expand(phase.batch, -1, -1),
            sigma=torch.empty(0),
            streams="time" if time_line else "view",
            view_index=torch.arange(views),
            time_index=torch.arange(times),
        )

    def _pseudo4d(self, phase: Phase) -> TrainingBatch:
        grids = []
        for _ in range(phase.batch):
            clip = self._line(time_line=True)[: phase.times]
            grids.append(pseudo_4d(clip / 2 + 0.5, phase.views, self.generator) * 2 - 1)
        return TrainingBatch(
            frames=torch.stack(grids),
            given=self._given(phase, phase.views, phase.times).expand(phase.batch, -1, -1),
            sigma=torch.empty(0),
            streams="both",
            view_index=torch.arange(phase.views),
            time_index=torch.arange(phase.times),
        )
