"""From a fixed-view video and a freeze-time video, or any given frames, to a grid of frames."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.optional import import_optional
from .checkpoint import load_model, save_model
from .continuation import Window, check_windows, plan_windows
from .sampler import check_options, sample
from .transformer import GridTransformer
from .video import GridVideo

DEFAULT_STEPS = 4
_SHARED_FRAME_TOLERANCE = 0.02


class GridPipeline:
    """Generates grids with a :class:`GridTransformer`.

    Args:
        model: the transformer, on the device it shall run on.
    """

    def __init__(self, model: GridTransformer):
        self.model = model.eval()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "bundled", *, device: str | torch.device = "cpu"):
        """Load ``"bundled"`` or a directory written by :meth:`save_pretrained`.

        Raises:
            ModelError: unknown name, or missing or damaged files.
        """
        return cls(load_model(name_or_path).to(device))

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into the directory ``path``."""
        save_model(self.model, path)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __call__(
        self,
        fixed_view: Tensor | None = None,
        freeze_time: Tensor | None = None,
        *,
        views: int | None = None,
        times: int | None = None,
        windows: str = "cross",
        steps: int = DEFAULT_STEPS,
        seed: int = 0,
        sampler: str = "euler",
        progress: bool = True,
    ) -> GridVideo:
        """Generate the grid whose first view and first timestep are given.

        Args:
            fixed_view: ``(T, 3, H, W)`` float in [0, 1], the timesteps of view 0.
            freeze_time: ``(V, 3, H, W)`` float in [0, 1], the views of timestep 0. Its first frame should be the first
                of ``fixed_view``; where they differ, that of ``fixed_view`` is used and a note says so.
                One of the two may be None: the grid is then a guess from the other alone.
            views, times: V where ``freeze_time`` is None, T where ``fixed_view`` is None; those the model was trained
                on when None.
            windows: how a grid larger than those the model was trained on is generated: ``"cross"``, ``"sliding"`` or
                ``"whole"``, see :func:`~fourreal_kernels.model.continuation.plan_windows`.
            steps: sampling steps; 1 is the model's answer from pure noise.
            seed: of the noise.
            sampler: ``"euler"`` or ``"heun"``.
            progress: show a progress bar.

        Returns:
            the grid; the given frames are returned as they were given.

        Raises:
            TypeError, ValueError: wrong types, shapes, sizes or values (NaN, outside [0, 1]), both videos None.
        """
        views = self._axis("freeze_time", freeze_time, "views", views)
        times = self._axis("fixed_view", fixed_view, "times", times)
        if fixed_view is None and freeze_time is None:
            raise ValueError("fixed_view, freeze_time: got None for both, expected at least one of the two videos")
        config = self.model.config
        frames = torch.zeros(views, times, 3, config.height, config.width)
        given = torch.zeros(views, times, dtype=torch.bool)
        if freeze_time is not None:
            frames[:, 0], given[:, 0] = freeze_time, True
        if fixed_view is not None:
            frames[0], given[0] = fixed_view, True
        options = {"steps": steps, "seed": seed, "sampler": sampler, "progress": progress}
        video = self.complete(frames, given, windows=windows, **options)
        video.notes = _input_notes(fixed_view, freeze_time) + video.notes
        return video

    def complete(
        self,
        frames: Tensor,
        given: Tensor,
        *,
        windows: str = "cross",
        steps: int = DEFAULT_STEPS,
        seed: int = 0,
        sampler: str = "euler",
        progress: bool = True,
    ) -> GridVideo:
        """Generate the frames of a grid that are not given.

        Args:
            frames: ``(V, T, 3, H, W)`` float in [0, 1]; read where given.
            given: ``(V, T)`` bool, any subset with at least one frame.
            windows, steps, seed, sampler, progress: as in :meth:`__call__`.
        """
        self._check_grid(frames, given)
        check_options(steps, sampler)
        check_windows(windows)
        started = time.perf_counter()
        config = self.model.config
        plan = plan_windows(given, (config.views, config.times), windows)
        notes = self._size_notes(given, plan, windows)
        noise = torch.randn(frames[None].shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
        result = (frames.float().to(self.device) * 2 - 1)[None]
        known = given.to(self.device, copy=True)[None]
        with torch.no_grad(), _progress_bar(steps * len(plan), progress) as advance:
            for window in plan:
                self._fill(result, known, noise, window, steps=steps, sampler=sampler, on_step=advance)
        generated = (result[0].cpu() / 2 + 0.5).clamp(0, 1)
        generated = torch.where(given.cpu()[..., None, None, None], frames.float().cpu(), generated)
        return GridVideo(generated, given.cpu(), notes, {"generate": time.perf_counter() - started})

    def _fill(self, frames: Tensor, known: Tensor, noise: Tensor, window: Window, **options: Any) -> None:
        """Generate the unknown frames of one window in ``frames`` and mark them in ``known``.

        The model numbers the views and timesteps of every window from 0, as it did in training.
        """
        part = (slice(None), torch.tensor(window.views)[:, None], torch.tensor(window.times))
        clean, mask = frames[part], known[part]
        prepared = self.model.prepare(clean, mask)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            sigmas = torch.full((1,), sigma, device=x.device)
            return self.model(x, mask, sigmas, prepared=prepared, only_missing=True).frames.clamp(-1, 1)

        frames[part] = sample(denoise, noise[part], clean, mask, **options).float()
        known[part] = True

    def _axis(self, name: str, clip: Tensor | None, axis: str, count: int | None) -> int:
        """Number of frames along the axis of a clip, which is checked."""
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 2):
            raise ValueError(f"{axis}: got {count!r}, expected an integer of at least 2")
        if clip is None:
            return getattr(self.model.config, axis) if count is None else count
        self._check_clip(name, clip)
        if count not in (None, len(clip)):
            raise ValueError(f"{axis}: got {count}, but {name} has {len(clip)} frames; leave {axis} out")
        return len(clip)

    def _check_clip(self, name: str, clip: Tensor) -> None:
        config = self.model.config
        if not isinstance(clip, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(clip).__name__}")
        expected = (3, config.height, config.width)
        if clip.ndim != 4 or tuple(clip.shape[1:]) != expected or len(clip) < 2:
            raise ValueError(
                f"{name}: got shape {tuple(clip.shape)}, expected (frames, {', '.join(map(str, expected))}) "
                "with at least 2 frames; fourreal_kernels.data.video_fit.fit_clip resizes"
            )
        _check_values(name, clip)

    def _check_grid(self, frames: Tensor, given: Tensor) -> None:
        config = self.model.config
        for name, x in (("frames", frames), ("given", given)):
            if not isinstance(x, Tensor):
                raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
        if frames.ndim != 5 or tuple(frames.shape[2:]) != (3, config.height, config.width):
            raise ValueError(
                f"frames: got shape {tuple(frames.shape)}, expected (V, T, 3, {config.height}, {config.width})"
            )
        if given.shape != frames.shape[:2] or given.dtype != torch.bool or not given.any():
            raise ValueError(f"given: expected a bool tensor {tuple(frames.shape[:2])} with at least one True")
        _check_values("frames", frames[given.to(frames.device)])

    def _size_notes(self, given: Tensor, plan: list[Window], windows: str) -> list[str]:
        config = self.model.config
        if tuple(given.shape) == (config.views, config.times):
            return []
        note = (
            f"the grid has {given.shape[0]} views and {given.shape[1]} timesteps; "
            f"the model was trained on {config.views} and {config.times}"
        )
        if len(plan) > 1:
            views, times = (max(map(len, axis)) for axis in zip(*plan, strict=True))
            note += f": generated in {len(plan)} windows ({windows}) of at most {views} and {times}"
        return [note]


def _input_notes(fixed_view: Tensor | None, freeze_time: Tensor | None) -> list[str]:
    """What is to be said of the two videos together."""
    if freeze_time is None:
        return ["no freeze-time video: nothing shows the other views, so expect little more than the fixed-view video"]
    if fixed_view is None:
        return ["no fixed-view video: nothing shows what moves, so expect little more than the freeze-time video"]
    difference = float((fixed_view[0] - freeze_time[0]).abs().mean())
    if difference <= _SHARED_FRAME_TOLERANCE:
        return []
    return [
        f"the first frames of the two videos differ by {difference:.3f} on average (of 1); "
        "that of the fixed-view video was used"
    ]


def _check_values(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{name}: got dtype {x.dtype}, expected floating point in [0, 1]")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name}: holds NaN or infinite values, expected finite values in [0, 1]")
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"{name}: values from {x.min():.3g} to {x.max():.3g}, expected [0, 1]")


@contextmanager
def _progress_bar(steps: int, shown: bool):
    if not shown:
        yield lambda: None
        return
    tqdm = import_optional("tqdm", "progress=True").tqdm
    with tqdm(total=steps, desc="generate", unit="step") as bar:
        yield lambda: bar.update(1)
