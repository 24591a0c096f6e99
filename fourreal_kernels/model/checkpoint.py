"""Saving and loading models: ``config.json`` beside ``model.safetensors``."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import torch

from ..data.staging import durable_file, sync_to_disk
from .config import GridConfig
from .transformer import GridTransformer

BUNDLED = "bundled"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class ModelError(ValueError):
    """A model that cannot be loaded; the message says which file and why."""


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('safetensors is needed: pip install "fourreal-kernels[generate]"') from error
    return safetensors.torch


def save_model(model: GridTransformer, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write ``config.json`` and ``model.safetensors`` into the directory ``path``.

    Whenever this is interrupted, ``path`` is absent, the old model or the new one; where its old model has another
    configuration it may instead be left without weights, which :func:`load_model` refuses.

    Args:
        dtype: stored dtype of the weights.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path if path.is_dir() else path.with_name(f"{path.name}.unfinished")
    folder.mkdir(exist_ok=True)
    _write_config(model.config, folder)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    with durable_file(folder / _WEIGHTS) as unfinished:
        _safetensors().save_file(tensors, unfinished)
    if folder != path:
        folder.rename(path)
        sync_to_disk(path.parent)


def _write_config(config: GridConfig, folder: Path) -> None:
    """Write it where it differs from what is there, whose weights then no longer fit and are removed first."""
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    target = folder / _CONFIG
    if target.is_file() and target.read_text() == text:
        return
    (folder / _WEIGHTS).unlink(missing_ok=True)
    with durable_file(target) as unfinished:
        unfinished.write_text(text)


def load_model(name_or_path: str | Path) -> GridTransformer:
    """Load a model in float32 on the CPU, in evaluation mode.

    Args:
        name_or_path: ``"bundled"`` or a directory written by :func:`save_model`.

    Raises:
        ModelError: unknown name, missing or damaged files, or weights that do not fit the configuration.
    """
    path = bundled_path() if str(name_or_path) == BUNDLED else Path(name_or_path)
    if str(name_or_path) == BUNDLED and not path.is_dir():
        raise ModelError(f"model: {path}, which holds the bundled model, is missing from this installation")
    if not path.is_dir():
        raise ModelError(f"model: {str(name_or_path)!r} is neither 'bundled' nor a directory")
    config = _load_config(path / _CONFIG)
    weights = _load_weights(path / _WEIGHTS)
    try:
        model = GridTransformer(config)
    except ValueError as error:
        raise ModelError(f"model: {path / _CONFIG} is not a valid configuration: {error}") from error
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise ModelError(f"model: the weights in {path / _WEIGHTS} do not fit its config.json: {detail}") from error
    return model.eval()


def bundled_path() -> Path:
    """Directory of the model that comes with the library."""
    return Path(str(resources.files("fourreal_kernels.model") / "weights"))


def _load_config(path: Path) -> GridConfig:
    if not path.is_file():
        raise ModelError(f"model: {path} is missing")
    try:
        return GridConfig.from_dict(json.loads(path.read_text()))
    except (ValueError, TypeError, OSError) as error:
        raise ModelError(f"model: {path} is not a valid configuration: {error}") from error


def _load_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ModelError(f"model: {path} is missing")
    try:
        weights = _safetensors().load_file(path)
    except ImportError:
        raise
    except Exception as error:
        raise ModelError(f"model: {path} is truncated or not a safetensors file: {error}") from error
    for name, tensor in weights.items():
        if not torch.isfinite(tensor.float()).all():
            raise ModelError(f"model: {path} is damaged: {name} holds NaN or infinite values")
    return weights
