"""A short training as a user starts it: scenes rendered on the device meanwhile, the operators forward and backward."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fourreal_kernels import use_backend

from .block import Absent, Job, Result, Settings

_STEPS = 20
_LEAST_FALL = 0.9


def jobs(settings: Settings) -> Iterator[Job]:
    """Each backend in bfloat16, one of them again in float32 and compiled."""
    for backend in settings.backends:
        yield f"{backend}: bfloat16", lambda b=backend: _train(settings, b, precision="bfloat16")
    first = settings.backends[0]
    yield f"{first}: float32", lambda: _train(settings, first)
    if settings.on_gpu:
        yield f"{first}: bfloat16, compiled", lambda: _train(settings, first, precision="bfloat16", compile=True)


def _train(settings: Settings, backend: str, **changes) -> Result:
    """Train the first steps of a recipe; the loss must be finite throughout and fall."""
    try:
        import safetensors  # noqa: F401
    except ImportError as error:
        raise Absent(f"the training writes safetensors files: {error}") from error
    from fourreal_kernels.data.pool import PoolSettings
    from fourreal_kernels.training import trainer

    pool = PoolSettings(capacity=2, start=2, light_samples=0) if settings.small else PoolSettings(capacity=32, start=16)
    losses = []
    with TemporaryDirectory() as folder, use_backend(backend):
        budget = trainer.Budget(steps=_STEPS)
        run = trainer._Run(_recipe(settings, **changes), pool, Path(folder), budget, None, settings.device)
        try:
            while run.done < 1:
                run.loss = math.nan
                run.step_once()
                losses.append(run.loss)
            run.save()
        finally:
            run.close()
        speed, *_ = (json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines())
    assert all(map(math.isfinite, losses)), f"losses {losses}"
    first, last = (sum(part) / len(part) for part in (losses[:5], losses[-5:]))
    assert last < _LEAST_FALL * first, f"the loss went from {first:.4g} to {last:.4g} in {_STEPS} steps"
    measured = {name: speed[name] for name in ("seconds_per_step", "grids_per_second", "tflops", "grids")}
    return {"first_loss": first, "last_loss": last} | measured


def _recipe(settings: Settings, **changes):
    """The model of the recipe `window`, or a tiny one, on whole grids from pure noise, where its loss falls fast."""
    from fourreal_kernels.training import Phase, load_recipe

    recipe = load_recipe("window")
    model, sides = replace(recipe.model, matching=False, head="direct"), {"views": 8, "times": 8, "batch": 8}
    rate = 0.002
    if settings.small:
        sides, rate = {"views": 2, "times": 2, "batch": 1}, 0.01
        model = replace(model, views=2, times=2, height=16, width=16, dim=24, depth=1, heads=2, head_features=4)
    phase = Phase("grids", pure_noise=1.0, **sides)
    recipe = replace(recipe, model=model, phases=(phase,), learning_rate=rate, warmup=0.2, cooldown=0.0)
    return replace(recipe, **{"precision": "float32"} | changes)
