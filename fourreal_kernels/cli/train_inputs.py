"""Checks of everything ``fourreal train`` is given, before anything is written."""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ..data import HELD_OUT_SEED, is_held_out
from ..data.dataset import GridDataset
from ..data.pool import PoolSettings
from ..data.staging import nearest_folder
from ..model.checkpoint import load_model
from ..model.transformer import GridTransformer
from ..training.config import Phase, Recipe, load_recipe
from ..training.parallel import Ranks
from ..training.sources import open_source
from ..training.state import has_state
from ..training.validation import VALIDATION_GRIDS
from .backends import chosen_backends
from .errors import UserError, user_errors

DEFAULT_SCENES = 1024


@dataclass(frozen=True)
class Data:
    """The training data: their folder, the grids that are there, and the seeds still to be rendered."""

    folder: Path
    present: int
    missing: list[int]


def check_recipe(name_or_path: str) -> Recipe:
    """Load a recipe and check that it can be trained.

    Raises:
        UserError: it is unknown or malformed, or a value is out of range.
    """
    with user_errors(ValueError, OSError):
        recipe = load_recipe(name_or_path)
    with user_errors(ValueError, prefix=f"recipe: {name_or_path}"):
        _check_types("", recipe)
        if not recipe.phases:
            raise ValueError("phases: got none, expected at least one")
        for index, phase in enumerate(recipe.phases):
            _check_phase(f"phases[{index}].", phase, recipe)
        GridTransformer(recipe.model)
    return recipe


def _check_types(where: str, values: Recipe | Phase) -> None:
    """Every number has the type of its default and is finite and not negative, unless its default is negative."""
    for field in fields(values):
        value = getattr(values, field.name)
        if field.type not in ("int", "float"):
            continue
        kinds = int if field.type == "int" else int | float
        if not isinstance(value, kinds) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(f"{where}{field.name}: got {value!r}, expected a number")
        if value < 0 and field.name != "sigma_mean":
            raise ValueError(f"{where}{field.name}: got {value!r}, expected a number not below zero")


def _check_phase(where: str, phase: Phase, recipe: Recipe) -> None:
    _check_types(where, phase)
    for name, least in (("views", 2), ("times", 2), ("batch", 1)):
        if getattr(phase, name) < least:
            raise ValueError(f"{where}{name}: got {getattr(phase, name)}, expected at least {least}")
    if phase.share <= 0:
        raise ValueError(f"{where}share: got {phase.share}, expected a positive number")
    if phase.trainable == "sync" and not recipe.model.has_sync:
        raise ValueError(f"{where}trainable: got 'sync', but mode {recipe.model.mode} has no synchronisation")


def check_run(out: Path, recipe: Recipe) -> bool:
    """Whether ``out`` holds a run of this recipe, which would go on.

    Raises:
        UserError: it holds a run of another recipe.
    """
    if not has_state(out):
        return False
    with user_errors(OSError, prefix=f"argument --out: {out}"):
        try:
            same = load_recipe(out / "recipe.json") == recipe
        except ValueError:
            same = False  # that of another version, or damaged
    if not same:
        raise UserError(f"argument --out: {out} holds a run of another recipe, choose another folder")
    return True


def check_initial(name_or_path: str | None) -> None:
    """Raise UserError if the model of ``--init`` cannot be loaded."""
    if name_or_path is not None:
        with user_errors(ValueError, OSError, prefix="argument --init"):
            load_model(name_or_path)


def check_backend(backend: str, recipe: Recipe, device: torch.device) -> None:
    """Raise UserError if the operators of the recipe's model cannot run on the backend of ``--backend``."""
    if backend != "auto":
        model = recipe.model
        chosen_backends(GridTransformer(model).to(device), model.views, model.times, backend)


def check_pool(arguments: Namespace, recipe: Recipe, device: torch.device) -> PoolSettings | None:
    """The pool in which scenes are rendered while the model trains; None to train on files.

    Raises:
        UserError: options that exclude one another, or scenes that cannot be rendered for the recipe.
    """
    files = arguments.data is not None or arguments.scenes is not None
    capacity = arguments.pool
    if capacity is None:
        capacity = PoolSettings.capacity if device.type == "cuda" and not files else 0
    if not capacity:
        if arguments.reuse is not None:
            raise UserError("argument --reuse: it is of scenes that are rendered while training; pass --pool N as well")
        return None
    if files:
        raise UserError("argument --pool: not allowed with --data and --scenes, which are about files")
    with user_errors(ValueError, prefix="argument --reuse"):
        uses = PoolSettings.uses if arguments.reuse is None else arguments.reuse
        settings = PoolSettings(capacity, uses=uses, start=min(capacity, PoolSettings.start))
    with user_errors(ValueError):
        open_source(recipe, settings, device, Ranks())
    return settings


def check_data(arguments: Namespace, recipe: Recipe) -> Data:
    """What is there to train on and what has to be rendered.

    Raises:
        UserError: too few grids, grids that do not fit the recipe or are held out, or a folder that cannot be used.
    """
    folder = arguments.data or arguments.out / "data"
    with user_errors(OSError, ValueError, prefix="argument --data"):
        nearest_folder(folder)
        dataset = GridDataset(folder) if folder.is_dir() else None
        seeds = set(dataset.seeds) if dataset else set()
        if dataset:
            _check_grids(dataset, recipe)
    wanted = arguments.scenes
    if wanted is None:
        enough = arguments.data is not None and len(seeds) > VALIDATION_GRIDS
        wanted = len(seeds) if enough else DEFAULT_SCENES
    missing = _missing_seeds(seeds, wanted)
    if len(seeds) + len(missing) <= VALIDATION_GRIDS:
        raise UserError(
            f"argument --scenes: {folder} holds {len(seeds)} grids and {len(missing)} are to be rendered, "
            f"expected more than {VALIDATION_GRIDS} together"
        )
    if missing and recipe.model.height != recipe.model.width:
        size = f"{recipe.model.width}x{recipe.model.height}"
        raise UserError(f"recipe: its frames of {size} are not square, so its scenes cannot be rendered; pass --data")
    return Data(folder, len(seeds), missing)


def _missing_seeds(present: set[int], wanted: int) -> list[int]:
    count = max(0, wanted - len(present))
    free = (seed for seed in range(HELD_OUT_SEED) if seed not in present)
    return [seed for seed, _ in zip(free, range(count), strict=False)]


def _check_grids(dataset: GridDataset, recipe: Recipe) -> None:
    model = recipe.model
    held_out = [seed for seed in dataset.seeds if is_held_out(seed)]
    if held_out:
        raise ValueError(f"{dataset.directory} holds the held-out seed {held_out[0]}: nothing may be trained on it")
    views, times = (max(getattr(phase, axis) for phase in recipe.phases) for axis in ("views", "times"))
    shapes = {tuple(dataset.frames(index).shape) for index in range(len(dataset))}
    for shape in shapes:
        fits = shape[0] >= views and shape[1] >= times and shape[2:] == (3, model.height, model.width)
        if not fits or len(shapes) > 1:
            raise ValueError(
                f"{dataset.directory} holds grids (V, T, 3, H, W) of {' and '.join(map(str, sorted(shapes)))}, "
                f"the recipe expects at least {views} x {times} frames of (3, {model.height}, {model.width})"
            )
