"""Train a model on procedural scenes, which are rendered meanwhile."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..data import HELD_OUT_SEED
from ..data.pool import PoolSettings
from .arguments import (
    add_backend,
    add_device,
    add_out,
    check_device,
    check_output,
    check_packages,
    integer,
    path,
    positive_number,
)
from .backends import backend_context
from .background import SCENES_PER_SHARD, rendering, wait_for_grids
from .environment import usable_cores
from .errors import UserError

if TYPE_CHECKING:
    from ..model.config import GridConfig
    from .train_inputs import Data

_DEFAULT_RECIPE = "bundled"


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``fourreal train``."""
    add_out(parser, required=False)
    parser.add_argument("--list", action="store_true", help="list the recipes and do nothing else")
    parser.add_argument(
        "--recipe", default=_DEFAULT_RECIPE, metavar="NAME|PATH",
        help=f"one of --list, or a JSON file like those (default: {_DEFAULT_RECIPE})",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=integer(1), metavar="N", help="length of the training in steps")
    length.add_argument("--minutes", type=positive_number, metavar="M", help="length of the training in minutes")
    parser.add_argument("--data", type=path, metavar="DIR", help="folder of rendered scenes (default: OUT/data)")
    parser.add_argument(
        "--scenes", type=integer(0, HELD_OUT_SEED), metavar="N",
        help="render as many scenes as --data lacks of this number (default: 1024, or those that --data holds)",
    )
    half = max(1, usable_cores() // 2)
    parser.add_argument(
        "--workers", type=integer(1, 1024), default=half, metavar="W", help=f"rendering processes (default: {half})"
    )
    parser.add_argument("--init", metavar="MODEL", help="start from this model where its weights fit")
    parser.add_argument(
        "--threads", type=integer(1, 1024), metavar="N", help="threads of the training (default: torch's choice)"
    )
    parser.add_argument(
        "--save-minutes", type=positive_number, default=5.0, metavar="M",
        help="minutes of training between saved states (default: 5)",
    )
    add_device(parser)
    add_backend(parser)
    parser.add_argument(
        "--pool", type=integer(0), metavar="N",
        help="render on --device while training and hold N scenes there, no files; 0: train on files "
        f"(default: {PoolSettings.capacity} on a GPU without --data and --scenes, else 0)",
    )
    parser.add_argument(
        "--reuse", type=positive_number, metavar="R",
        help="how often a scene of --pool is drawn before a new one takes its place "
        f"(default: {PoolSettings.uses:g})",
    )


def run(arguments: Namespace) -> None:
    """Train into ``--out``: the model in ``model``, and what the same command needs to go on where it stopped.

    Started by torchrun, each process trains on its own scenes, and the first one renders files, writes and prints.
    """
    if arguments.list:
        _print_recipes()
        return
    _require(arguments.out is not None, "--out")
    _require(arguments.steps is not None or arguments.minutes is not None, "--steps or --minutes")
    check_packages(("safetensors", "tqdm"))
    # The training needs safetensors as soon as it is imported.
    from ..training.parallel import current_ranks, process_group

    with process_group(check_device(arguments.device)) as device:
        _train(arguments, device, first=current_ranks().rank == 0)


def _train(arguments: Namespace, device: torch.device, first: bool) -> None:
    from ..training.trainer import Budget, train
    from . import train_inputs

    recipe = train_inputs.check_recipe(arguments.recipe)
    check_output(arguments.out, ("recipe.json", "log.jsonl", "state.safetensors", "render.log"))
    resumes = train_inputs.check_run(arguments.out, recipe)
    train_inputs.check_initial(arguments.init)
    train_inputs.check_backend(arguments.backend, recipe, device)
    pool = train_inputs.check_pool(arguments, recipe, device)
    data = None if pool else train_inputs.check_data(arguments, recipe)
    if data and data.missing:
        check_output(data.folder, ())
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if first:
        print(f"{'resuming' if resumes else 'training'} {arguments.recipe} in {arguments.out}", flush=True)
    options = {"initial": arguments.init, "device": str(device), "save_minutes": arguments.save_minutes}
    with _rendered(arguments, recipe.model, data if first else None), backend_context(arguments.backend):
        budget = Budget(arguments.steps, arguments.minutes)
        result = train(recipe, pool or data.folder, arguments.out, budget, progress=first, **options)
    if first:
        print(f"model: {result}")
        print(f"try it: fourreal generate --model {shlex.quote(str(result))} --out OUT")


@contextmanager
def _rendered(arguments: Namespace, model: GridConfig, data: Data | None) -> Iterator[None]:
    """While the block runs, render the scenes that ``data`` lacks; begin when all processes have some to train on."""
    from ..training.parallel import current_ranks

    if data is None or not data.missing:
        current_ranks().wait()
        yield
        return
    log = arguments.out / "render.log"
    size = {"size": model.height, "views": model.views, "times": model.times, "workers": arguments.workers}
    with rendering(data.folder, data.missing, log, **size) as process:
        print(f"{data.present} scenes in {data.folder}, rendering {len(data.missing)} more", flush=True)
        if data.present < SCENES_PER_SHARD:
            wait_for_grids(process, data.folder, data.missing[0], log)
        current_ranks().wait()
        yield
        if process.poll():
            print(f"warning: rendering ended with status {process.returncode}, {log} says why")


def _require(given: bool, names: str) -> None:
    if not given:
        raise UserError(f"the following arguments are required: {names} (see `fourreal train --help`)")


def _print_recipes() -> None:
    from ..training.config import bundled_recipes, load_recipe

    for name in bundled_recipes():
        print(f"{name:<20} {load_recipe(name).description}")
