"""The state of a training run on disk: one safetensors file and one JSON file, replaced together."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.optional import import_optional
from ..data.staging import durable_file
from .ema import EMA

_STATE = "state.safetensors"
# What each process has for itself: generators of samples and of noise, and the pool's seeds.
OWN = ("generator", "noise", "pool")


def save_state(
    directory: Path,
    model: nn.Module,
    ema: EMA,
    optimizers: list[torch.optim.Optimizer],
    progress: dict,
    of_ranks: list[dict[str, Tensor]],
) -> None:
    """Write everything :func:`load_state` needs to go on exactly where the run stands.

    The file is replaced as a whole, so that whenever this is interrupted the old or the new state is there.

    Args:
        progress: JSON values, which travel in the file's metadata.
        of_ranks: by rank, what each of the processes that train together has for itself, such as its generator.
    """
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"ema.{name}": t for name, t in ema.model.state_dict().items()}
    tensors |= _optimizer_tensors(optimizers)
    tensors |= {_own_name(name, rank): t for rank, own in enumerate(of_ranks) for name, t in own.items()}
    metadata = {"progress": json.dumps(progress | {"ema_updates": ema.updates})}
    save_file = import_optional("safetensors.torch", "training").save_file
    with durable_file(directory / _STATE) as unfinished:
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, unfinished, metadata)


def _own_name(name: str, rank: int) -> str:
    return f"{name}.{rank}" if rank else name


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
    rank: int = 0,
) -> tuple[dict, dict[str, Tensor]]:
    """Restore a run in place; returns its progress and, by name, those of :data:`OWN` that ``rank`` had."""
    with _open(directory) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    progress = saved_progress(directory)
    model.load_state_dict(_section(tensors, "model."))
    ema.model.load_state_dict(_section(tensors, "ema."))
    ema.updates = progress["ema_updates"]
    for index, optimizer in enumerate(optimizers):
        _restore_optimizer(optimizer, _section(tensors, f"optimizer.{index}."))
    return progress, {name: tensors[_own_name(name, rank)] for name in OWN if _own_name(name, rank) in tensors}


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
