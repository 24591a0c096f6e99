"""The state of a training run on disk: one safetensors file and one JSON file, replaced together."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.optional import import_optional
from .ema import EMA

_STATE = "state.safetensors"
_RNG = "generator"


def save_state(
    directory: Path,
    model: nn.Module,
    ema: EMA,
    optimizers: list[torch.optim.Optimizer],
    generator: torch.Generator,
    progress: dict,
) -> None:
    """Write everything :func:`load_state` needs to go on exactly where the run stands.

    ``progress`` (JSON values) travels in the file's metadata, so that the file is complete or absent.
    """
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"ema.{name}": t for name, t in ema.model.state_dict().items()}
    tensors |= _optimizer_tensors(optimizers)
    tensors[_RNG] = generator.get_state()
    metadata = {"progress": json.dumps(progress | {"ema_updates": ema.updates})}
    unfinished = directory / f"{_STATE}.unfinished"
    save_file = import_optional("safetensors.torch", "training").save_file
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, unfinished, metadata)
    unfinished.replace(directory / _STATE)


def has_state(directory: Path) -> bool:
    return (directory / _STATE).is_file()


def _open(directory: Path):
    return import_optional("safetensors", "training").safe_open(directory / _STATE, framework="pt")


def saved_progress(directory: Path) -> dict:
    """The ``progress`` of the saved state, without its tensors."""
    with _open(directory) as file:
        return json.loads(file.metadata()["progress"])


def load_state(
    directory: Path,
    model: nn.Module,
    ema: EMA,
    optimizers: list[torch.optim.Optimizer],
    generator: torch.Generator,
) -> dict:
    """Restore a run in place and return its progress."""
    with _open(directory) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    progress = saved_progress(directory)
    model.load_state_dict(_section(tensors, "model."))
    ema.model.load_state_dict(_section(tensors, "ema."))
    ema.updates = progress["ema_updates"]
    generator.set_state(tensors[_RNG])
    for index, optimizer in enumerate(optimizers):
        _restore_optimizer(optimizer, _section(tensors, f"optimizer.{index}."))
    return progress


def _section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"optimizer.{index}.{parameter}.{key}": value
        for index, optimizer in enumerate(optimizers)
        for parameter, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, key = name.split(".", 1)
        state.setdefault(int(parameter), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
