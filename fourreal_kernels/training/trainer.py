"""The training loop."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.dataset import GridDataset
from ..data.optional import import_optional
from ..data.scenes import is_held_out
from ..model.checkpoint import load_model, save_model
from ..model.transformer import GridTransformer
from .batches import BatchSampler
from .config import Phase, Recipe
from .ema import EMA
from .losses import flow_loss, noisy_input, sharpness_loss, velocity_loss
from .optimizer import build_optimizers
from .state import has_state, load_state, save_state, saved_progress
from .validation import VALIDATION_GRIDS, validate


@dataclass(frozen=True)
class Budget:
    """Length of a run: a number of optimiser steps, or minutes of wall time (summed over resumptions)."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [length for length in (self.steps, self.minutes) if length is not None]
        if len(given) != 1 or not given[0] > 0:
            raise ValueError(
                f"budget: got steps={self.steps} and minutes={self.minutes}, expected one of them, a positive number"
            )

    def done(self, step: int, seconds: float) -> float:
        """The finished part of the run, 0 to 1."""
        return min(1.0, step / self.steps if self.steps is not None else seconds / (60 * self.minutes))


def train(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    budget: Budget,
    *,
    initial: str | Path | None = None,
    device: str = "cpu",
    save_minutes: float = 5.0,
    progress: bool = True,
) -> Path:
    """Train a model and write it to ``out/model`` (averaged weights, float16).

    ``out`` also receives ``recipe.json``, ``log.jsonl`` and the state from which the same call resumes. New shards
    that appear in ``data`` while it runs are used.

    Args:
        recipe: what to train and how.
        data: directory of shards written by ``fourreal_kernels.data.prerender``.
        initial: a model directory to start from; its weights are taken wherever names and shapes agree.
        save_minutes: time between saved states.

    Returns:
        The directory of the model.

    Raises:
        ValueError: the recipe cannot be trained on these data, or ``out`` holds a run of another recipe.
        FileNotFoundError: ``data`` does not exist.
    """
    run = _Run(recipe, data, Path(out), budget, initial, device)
    last_save = time.monotonic()
    with _progress_bar(progress) as bar:
        while run.done < 1:
            run.step_once()
            bar.show(run)
            if time.monotonic() - last_save > 60 * save_minutes:
                run.save()
                last_save = time.monotonic()
    run.save()
    return run.out / "model"


class _Run:
    """The mutable state of one training run."""

    def __init__(self, recipe: Recipe, data, out: Path, budget: Budget, initial, device: str):
        self.recipe, self.out, self.budget, self.device = recipe, out, budget, device
        self.dataset = GridDataset(data)
        _check(recipe, self.dataset)
        torch.manual_seed(recipe.seed)
        self.model = GridTransformer(recipe.model).to(device)
        if initial is not None:
            _load_matching(self.model, initial)
        self.ema = EMA(self.model, recipe.ema)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.sampler = BatchSampler(self.dataset, self.generator, frozenset(range(VALIDATION_GRIDS)))
        self.step, self.seconds, self.loss = 0, 0.0, float("nan")
        self.phase: Phase | None = None
        self._restore_or_start()

    def _restore_or_start(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        settings = self.out / "recipe.json"
        text = json.dumps(self.recipe.to_dict(), indent=2) + "\n"
        if not has_state(self.out):
            settings.write_text(text)
            self._enter(self._phase_at(0.0))
            return
        if settings.read_text() != text:
            raise ValueError(f"out: {self.out} holds a run of another recipe; choose another directory")
        self._enter(self.recipe.phases[saved_progress(self.out)["phase"]])
        progress = load_state(self.out, self.model, self.ema, self.optimizers, self.generator)
        self.step, self.seconds = progress["step"], progress["seconds"]

    @property
    def done(self) -> float:
        return self.budget.done(self.step, self.seconds)

    def _phase_at(self, done: float) -> Phase:
        total = sum(phase.share for phase in self.recipe.phases)
        end = 0.0
        for phase in self.recipe.phases:
            end += phase.share / total
            if done < end:
                return phase
        return self.recipe.phases[-1]

    def _enter(self, phase: Phase) -> None:
        """Begin a phase: choose the trained weights. Optimiser state lives on while these stay the same."""
        changed = self.phase is None or phase.trainable != self.phase.trainable
        self.phase = phase
        if not changed:
            return
        trained = self.model.sync_parameters() if phase.trainable == "sync" else list(self.model.parameters())
        chosen = {id(parameter) for parameter in trained}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.optimizers = build_optimizers(named, self.recipe.learning_rate, self.recipe.weight_decay)

    def _learning_rate(self) -> float:
        done, recipe = self.done, self.recipe
        rising = done / recipe.warmup if recipe.warmup > 0 else 1.0
        falling = (1 - done) / recipe.cooldown if recipe.cooldown > 0 else 1.0
        return recipe.learning_rate * min(1.0, rising + 1e-3, falling)

    def step_once(self) -> None:
        started = time.monotonic()
        phase = self._phase_at(self.done)
        if phase is not self.phase:
            self._enter(phase)
        batch = self.sampler.draw(phase).to(self.device)
        noise = torch.randn(batch.frames.shape, generator=self.generator).to(self.device)
        prediction = self.model(
            noisy_input(batch, noise), batch.given, batch.sigma,
            streams=batch.streams, view_index=batch.view_index, time_index=batch.time_index,
        )
        velocity = velocity_loss(prediction, batch)
        flow = flow_loss(prediction, batch) if phase.flow_weight else velocity.new_zeros(())
        loss = velocity + phase.flow_weight * flow
        if phase.sharpness_weight:
            loss = loss + phase.sharpness_weight * sharpness_loss(prediction, batch)
        self._apply(loss)
        self.step += 1
        self.seconds += time.monotonic() - started
        self._record(velocity.item(), flow.item())

    def _apply(self, loss: torch.Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, self.recipe.gradient_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate()
            optimizer.step()
        self.ema.update(self.model)

    def _record(self, velocity: float, flow: float) -> None:
        self.loss = velocity if self.loss != self.loss else 0.98 * self.loss + 0.02 * velocity
        if self.step % 20 == 0:
            self.dataset.refresh()
            self._log(step=self.step, minutes=round(self.seconds / 60, 2), phase=self.phase.name,
                      loss=round(self.loss, 5), flow=round(flow, 3), grids=len(self.dataset))

    def _log(self, **values) -> None:
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(values) + "\n")

    def save(self) -> None:
        self._log(step=self.step, minutes=round(self.seconds / 60, 2),
                  validation=validate(self.ema.model, self.dataset, self.device))
        progress = {"step": self.step, "seconds": self.seconds, "phase": self.recipe.phases.index(self.phase)}
        save_state(self.out, self.model, self.ema, self.optimizers, self.generator, progress)
        save_model(self.ema.model, self.out / "model")


def _check(recipe: Recipe, dataset: GridDataset) -> None:
    """Raise ValueError unless the recipe can be trained on the data; nothing has been written by then."""
    model, where = recipe.model, f"data: {dataset.directory} holds"
    for phase in recipe.phases:
        if phase.trainable == "sync" and not model.has_sync:
            raise ValueError(f"recipe: phase {phase.name!r} trains 'sync', but mode {model.mode} has none")
    if len(dataset) <= VALIDATION_GRIDS:
        raise ValueError(f"{where} {len(dataset)} grids, expected more than {VALIDATION_GRIDS}")
    for seed in dataset.seeds:
        if is_held_out(seed):
            raise ValueError(f"{where} the held-out seed {seed}, on which nothing may be trained")
    views, times = (max(getattr(phase, axis) for phase in recipe.phases) for axis in ("views", "times"))
    shape = tuple(dataset.frames(0).shape)
    if shape[0] < views or shape[1] < times or shape[3:] != (model.height, model.width):
        raise ValueError(
            f"{where} grids (V, T, 3, H, W) of {shape}, the recipe expects at least {views} x {times} frames of "
            f"(3, {model.height}, {model.width})"
        )


def _load_matching(model: GridTransformer, path: str | Path) -> None:
    own, other = model.state_dict(), load_model(path).state_dict()
    model.load_state_dict(own | {name: t for name, t in other.items() if name in own and own[name].shape == t.shape})


class _progress_bar:
    """tqdm over the finished part of the run, with loss and time left."""

    def __init__(self, shown: bool):
        self.bar = None
        if shown:
            tqdm = import_optional("tqdm", "progress=True").tqdm
            self.bar = tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}{postfix}")

    def __enter__(self) -> _progress_bar:
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, run: _Run) -> None:
        if self.bar is None:
            return
        done = run.done
        left = run.seconds * (1 - done) / done if done > 0 else 0.0
        self.bar.n = round(100 * done, 1)
        self.bar.set_postfix_str(f"step {run.step}, {run.phase.name}, loss {run.loss:.4f}, {left / 60:.0f} min left")
