"""The synchronisation layers that ``mode="two_stream"`` adds to a model, and their file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...nn import HardSync, SoftSync
from .installation import sync_of

_FORMAT = "fourreal_kernels.sync/1"


class SyncLayers(nn.Module):
    """One synchronisation layer after every block, modulated by the model's own embedding of the diffusion time.

    Args:
        kind: ``"soft"`` (starts as two uncoupled streams) or ``"hard"`` (starts as the plain average).
        depth: number of blocks.
        dim: C of the tokens.
        temb_dim: width of the model's time modulation.
        cond_dim: width of the conditioning that all layers share.
        per_channel: one weight per channel instead of dense matrices.
    """

    def __init__(self, kind: str, depth: int, dim: int, temb_dim: int, cond_dim: int, per_channel: bool):
        super().__init__()
        self.kind = kind
        layer = SoftSync if kind == "soft" else HardSync
        self.cond = nn.Linear(temb_dim, cond_dim)
        self.layers = nn.ModuleList([layer(dim, cond_dim, per_channel=per_channel) for _ in range(depth)])

    def conditioning(self, temb: Tensor) -> Tensor:
        """What modulates every layer.

        Args:
            temb: the model's time modulation ``(B, temb_dim)``, or one per token ``(B, L, temb_dim)``, averaged.

        Returns:
            ``(B, cond_dim)``.
        """
        temb = temb.mean(1) if temb.ndim == 3 else temb
        with torch.autocast(temb.device.type, enabled=False):
            return self.cond(nn.functional.silu(temb.to(self.cond.weight.dtype)))

    def exchange(self, index: int, view: Tensor, time: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """The layer after one block, in the dtype of its weights: float32 layers may follow a bfloat16 model.

        Args:
            index: of the block.
            view, time: the streams ``(B, L, C)``; without grad they may be written to.
            cond: of :meth:`conditioning`.

        Returns:
            ``(view, time)`` in the dtype of the streams.
        """
        dtype, own = view.dtype, self.cond.weight.dtype
        with torch.autocast(view.device.type, enabled=False):
            inplace = not torch.is_grad_enabled()
            view, time = self.layers[index](view.to(own), time.to(own), cond, inplace=inplace)
        return view.to(dtype), time.to(dtype)


def sync_layers(model: nn.Module) -> SyncLayers:
    """The synchronisation layers of a model with ``apply_to(model, "two_stream")``: all that is trainable in it.

    Raises:
        ValueError: the model has none.
    """
    sync = sync_of(model)
    if sync is None:
        raise ValueError(
            f"model: got a {type(model).__name__} without synchronisation layers; call "
            'apply_to(model, "two_stream") first'
        )
    return sync


def save_sync(model: nn.Module, path: str | Path) -> None:
    """Write the synchronisation layers alone into one safetensors file.

    Args:
        model: a model with ``apply_to(model, "two_stream")``.
        path: of the file; its folder must exist.

    Raises:
        ValueError: the model has no synchronisation layers.
        ImportError: safetensors is not installed.
    """
    sync = sync_layers(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sync.state_dict().items()}
    _safetensors().torch.save_file(tensors, path, metadata={"format": _FORMAT, "kind": sync.kind})


def load_sync(model: nn.Module, path: str | Path) -> None:
    """Load what :func:`save_sync` wrote, into the dtype and device of the model's layers.

    Args:
        model: a model with ``apply_to(model, "two_stream", ...)`` of the same kind and sizes.
        path: of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model has no synchronisation layers, or those of the file are others.
        ImportError: safetensors is not installed.
    """
    sync = sync_layers(model)
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: {path} is not a file; save_sync(model, path) writes one")
    with _safetensors().safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if metadata.get("format") != _FORMAT or metadata.get("kind") != sync.kind:
        raise ValueError(
            f"path: {path} holds {metadata.get('kind', 'no')} synchronisation layers, expected {sync.kind!r} ones; "
            f'apply_to(model, "two_stream", sync={metadata.get("kind", sync.kind)!r}) makes the others'
        )
    _check_shapes(path, tensors, sync.state_dict())
    sync.load_state_dict(tensors)


def _check_shapes(path: str | Path, got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    got_shapes, expected_shapes = ({name: tuple(x.shape) for name, x in some.items()} for some in (got, expected))
    for name in sorted(got_shapes.keys() | expected_shapes.keys()):
        if got_shapes.get(name) != expected_shapes.get(name):
            raise ValueError(
                f"path: {name} in {path} has shape {got_shapes.get(name)}, expected {expected_shapes.get(name)}; the "
                "model, sync_cond_dim and sync_per_channel must be those that the file was saved with"
            )


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('safetensors is needed: pip install "fourreal-kernels[diffusers]"') from error
    return safetensors
