"""The training loop."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.pool import GridPool, PoolSettings
from ..data.staging import durable_file
from ..model.checkpoint import load_model, save_model
from ..model.transformer import GridTransformer
from .batches import BatchSampler, TrainingBatch
from .config import Phase, Recipe, load_recipe
from .ema import EMA
from .flops import training_flops
from .log import ProgressBar, RunLog, Speed
from .losses import flow_loss, noisy_input, sharpness_loss, velocity_loss
from .optimizer import build_optimizers
from .parallel import current_ranks
from .precision import predict
from .sources import open_source
from .state import has_state, load_state, save_state, saved_progress
from .validation import VALIDATION_GRIDS, validate

_LOG_STEPS = 20


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
    data: str | Path | PoolSettings,
    out: str | Path,
    budget: Budget,
    *,
    initial: str | Path | None = None,
    device: str = "cpu",
    save_minutes: float = 5.0,
    progress: bool = True,
) -> Path:
    """Train a model and write it to ``out/model`` (averaged weights, float16).

    ``out`` also receives ``recipe.json``, ``log.jsonl`` and the state from which the same call resumes: it and the
    model are replaced as a whole, so that a run that is killed at any moment resumes. In a process group of
    torch.distributed every process calls this: each trains on samples of its own, ``recipe``'s batch is that of one
    process, and rank 0 writes.

    Args:
        recipe: what to train and how.
        data: directory of shards written by ``fourreal_kernels.data.prerender``, of which new ones are used as they
            appear; or a pool, whose grids are rendered on ``device`` meanwhile.
        initial: a model directory to start from; its weights are taken wherever names and shapes agree.
        save_minutes: time between saved states.

    Returns:
        The directory of the model.

    Raises:
        ValueError: the recipe cannot be trained on these data, or ``out`` holds a run of another recipe.
        FileNotFoundError: ``data`` does not exist.
    """
    run = _Run(recipe, data, Path(out), budget, initial, device)
    saved = run.seconds
    try:
        with ProgressBar(progress and run.ranks.rank == 0) as bar:
            while run.done < 1:
                run.step_once()
                bar.show(run.done, run.step, run.phase.name, run.loss, run.seconds)
                if run.seconds - saved > 60 * save_minutes:
                    run.save()
                    saved = run.seconds
        run.save()
    finally:
        run.close()
    return run.out / "model"


class _Run:
    """The mutable state of one training run. All ranks agree on everything but their samples."""

    def __init__(self, recipe: Recipe, data, out: Path, budget: Budget, initial, device: str):
        self.recipe, self.out, self.budget, self.device = recipe, out, budget, device
        self.ranks = current_ranks()
        self.dataset = open_source(recipe, data, device, self.ranks)
        self.pool = self.dataset if isinstance(self.dataset, GridPool) else None
        torch.manual_seed(recipe.seed)
        self.model = GridTransformer(recipe.model).to(device)
        if initial is not None:
            _load_matching(self.model, initial)
        self.ema = EMA(self.model, recipe.ema)
        if recipe.compile:
            self.model.compile_layers()
        self._seed_generators()
        self.sampler = BatchSampler(self.dataset, self.generator, frozenset(range(VALIDATION_GRIDS)))
        self.step, self.seconds, self.loss = 0, 0.0, float("nan")
        self.phase: Phase | None = None
        self.speed = Speed()
        self._restore_or_start()

    def _seed_generators(self) -> None:
        """Samples are drawn by a generator of the CPU; on a GPU the noise by one of its own, where it is needed."""
        seed = self.ranks.seed(self.recipe.seed)
        self.generator = self.noise_generator = torch.Generator().manual_seed(seed)
        if torch.device(self.device).type != "cpu":
            self.noise_generator = torch.Generator(self.device).manual_seed(seed)

    def _restore_or_start(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        settings, writes = self.out / "recipe.json", self.ranks.rank == 0
        own: dict[str, Tensor] = {}
        if not has_state(self.out):
            if writes:
                with durable_file(settings) as unfinished:
                    unfinished.write_text(json.dumps(self.recipe.to_dict(), indent=2) + "\n")
            self._enter(self.recipe.phases[0])
        else:
            if load_recipe(settings) != self.recipe:
                raise ValueError(f"out: {self.out} holds a run of another recipe; choose another directory")
            self._enter(self.recipe.phases[saved_progress(self.out)["phase"]])
            progress, own = load_state(self.out, self.model, self.ema, self.optimizers, self.ranks.rank)
            self.step, self.seconds = progress["step"], progress["seconds"]
        self._restore_own(own)
        self.log = RunLog(self.out / "log.jsonl" if writes else None)

    def _restore_own(self, own: dict[str, Tensor]) -> None:
        """What this rank had for itself; without it, it goes on with a generator of its seed and new grids."""
        if "generator" in own:
            self.generator.set_state(own["generator"])
        if "noise" in own and self.noise_generator is not self.generator:
            self.noise_generator.set_state(own["noise"])
        if self.pool is not None:
            self.pool.fill(own.get("pool"))

    def _own(self) -> dict[str, Tensor]:
        own = {"generator": self.generator.get_state()}
        if self.noise_generator is not self.generator:
            own["noise"] = self.noise_generator.get_state()
        return own if self.pool is None else own | {"pool": self.pool.state()}

    def close(self) -> None:
        """End what runs beside the training."""
        if self.pool is not None:
            self.pool.close()

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
        noise = torch.randn(
            batch.frames.shape, generator=self.noise_generator, device=self.noise_generator.device
        ).to(self.device)
        prediction = predict(self.model, noisy_input(batch, noise), batch, self.recipe.precision)
        velocity = velocity_loss(prediction, batch)
        flow = flow_loss(prediction, batch) if phase.flow_weight else velocity.new_zeros(())
        loss = velocity + phase.flow_weight * flow
        if phase.sharpness_weight:
            loss = loss + phase.sharpness_weight * sharpness_loss(prediction, batch)
        self._apply(loss)
        if self.pool is not None:
            self.pool.advance(phase.batch)
        # Reading the losses waits for the GPU, so that the time is that of the step.
        velocity, flow = velocity.item(), flow.item()
        self.step += 1
        seconds = self.ranks.mean(time.monotonic() - started, self.device)
        self.seconds += seconds
        self._record(velocity, flow, batch, seconds)

    def _apply(self, loss: torch.Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        self.ranks.average_gradients(trained)
        torch.nn.utils.clip_grad_norm_(trained, self.recipe.gradient_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate()
            optimizer.step()
        self.ema.update(self.model)

    def _record(self, velocity: float, flow: float, batch: TrainingBatch, seconds: float) -> None:
        self.loss = velocity if self.loss != self.loss else 0.98 * self.loss + 0.02 * velocity
        count, views, times = batch.given.shape
        flops = training_flops(self.recipe.model, views, times, batch.streams, self.phase.trainable)
        self.speed.add(count * self.ranks.count, flops * count * self.ranks.count, seconds)
        if self.step % _LOG_STEPS == 0:
            if self.pool is None:
                self.dataset.refresh()
            self.log.write(step=self.step, minutes=round(self.seconds / 60, 2), phase=self.phase.name,
                           loss=round(self.loss, 5), flow=round(flow, 3), grids=len(self.dataset), **self.speed.take())

    def save(self) -> None:
        """Write the state and the model. All ranks come here together."""
        of_ranks = self.ranks.gather(self._own())
        if self.ranks.rank == 0:
            self.log.write(step=self.step, minutes=round(self.seconds / 60, 2),
                           validation=validate(self.ema.model, self.dataset, self.device))
            progress = {"step": self.step, "seconds": self.seconds, "phase": self.recipe.phases.index(self.phase)}
            save_state(self.out, self.model, self.ema, self.optimizers, progress, of_ranks)
            save_model(self.ema.model, self.out / "model")
        self.ranks.wait()


def _load_matching(model: GridTransformer, path: str | Path) -> None:
    own, other = model.state_dict(), load_model(path).state_dict()
    model.load_state_dict(own | {name: t for name, t in other.items() if name in own and own[name].shape == t.shape})
