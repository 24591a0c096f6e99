"""What the commands share: the parser, types of arguments, and checks of paths, devices, packages and models."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch

from ..data.optional import import_optional
from ..data.staging import nearest_folder
from ..dispatch import BACKENDS
from ..model.checkpoint import BUNDLED
from ..model.pipeline import DEFAULT_STEPS, GridPipeline
from ..model.sampler import SAMPLERS
from .errors import UserError, user_errors

if TYPE_CHECKING:
    from argparse import Namespace

FAMILIES = ("easy", "hard")
LARGEST_SEED = 2**63 - 1
MOST_STEPS = 1000


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and which knows no abbreviations."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """Argument type: an integer from ``least`` to ``most``."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected an integer {bounds}")
        return value

    return convert


def positive_number(text: str) -> float:
    """Argument type: a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a positive number")
    return value


def path(text: str) -> Path:
    """Argument type: a path that is not empty."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a path")
    return Path(text)


def add_out(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--out", type=path, required=required, metavar="DIR", help="folder that receives the files")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda or cuda:N (default: cpu)")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options of the commands that run a model: ``--model --steps --sampler --device --backend``."""
    parser.add_argument(
        "--model", default=BUNDLED, metavar="M",
        help=f"{BUNDLED!r}, or a folder with config.json and model.safetensors (default: {BUNDLED})",
    )
    parser.add_argument(
        "--steps", type=integer(1, MOST_STEPS), default=DEFAULT_STEPS, metavar="K",
        help=f"sampling steps (default: {DEFAULT_STEPS})",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default=SAMPLERS[0], help=f"default: {SAMPLERS[0]}")
    add_device(parser)
    add_backend(parser)


def add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend", choices=("auto", *BACKENDS), default="auto",
        help="backend of the operators that have it (default: auto, the fastest)",
    )


def check_output(folder: Path, names: Iterable[str]) -> None:
    """Check that the files ``names`` can be written into ``folder``, which need not exist yet.

    Raises:
        UserError: a file is in the way, or the folder cannot be made or written to.
    """
    with user_errors(OSError, ValueError, prefix="argument --out"):
        if folder.is_symlink() and not folder.exists():
            raise UserError(f"argument --out: {folder} is a link to something that does not exist")
        for name in names:
            if (folder / name).is_dir():
                raise UserError(f"argument --out: {folder / name} is a folder, expected a free name or a file")
        # Access rights alone do not tell: root has them all, also where nothing can be made.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=nearest_folder(folder)):
            pass


def check_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        UserError: it is unknown or not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UserError(f"argument --device: got {name!r}, expected cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            raise UserError(f"argument --device: {name} is not available: torch {torch.__version__} finds {count} GPUs")
    return device


def check_packages(names: Iterable[str]) -> None:
    """Raise UserError if one of the optional packages cannot be imported."""
    with user_errors(ImportError):
        for name in names:
            import_optional(name, "this command")


def load_pipeline(arguments: Namespace) -> GridPipeline:
    """The pipeline of ``--model`` on ``--device``.

    Raises:
        UserError: the device is not there, or the model is unknown, damaged or inconsistent.
    """
    device = check_device(arguments.device)
    with user_errors(ValueError, OSError):
        return GridPipeline.from_pretrained(arguments.model, device=device)
