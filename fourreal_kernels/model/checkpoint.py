"""Saving and loading models: ``config.json`` beside ``model.safetensors``."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import torch

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

    Args:
        dtype: stored dtype of the weights.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    _safetensors().save_file(tensors, path / _WEIGHTS)
    (path / _CONFIG).write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")


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
