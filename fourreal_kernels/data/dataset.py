"""Shards of pre-rendered grids: written by one process per core, read while more are being written."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .optional import import_optional
from .scene_family import SceneFamily
from .scenes import is_held_out
from .staging import durable_file
from .stored_grid import GridSample, flow_unit, read_stored, render_stored

SHARD_SUFFIX = ".safetensors"
_PURPOSE = "a shard of rendered grids"


def render_shard(
    path: str | Path,
    seeds: Sequence[int],
    family: str | SceneFamily = "easy",
    size: int = 64,
    *,
    views: int = 8,
    times: int = 8,
    supersample: int = 2,
    light_samples: int = 4,
    chunk: int = 1,
    device: torch.device | str = "cpu",
    allow_held_out: bool = False,
) -> None:
    """Render G = len(seeds) grids of `size` x `size` frames and write them as one safetensors file.

    Tensors: those of `render_stored`, each stacked to (G, ...), and `seeds` (G,) int64. The file appears
    under its name only when complete. Raises ValueError for held-out seeds unless `allow_held_out`, and for
    no seeds.
    """
    check_seeds(seeds, allow_held_out)
    save_file = import_optional("safetensors.torch", _PURPOSE).save_file
    options = {"views": views, "times": times, "supersample": supersample, "light_samples": light_samples}
    options |= {"chunk": chunk, "device": device}
    grids = [
        {name: tensor.cpu() for name, tensor in render_stored(seed, family, size, **options).items()}
        for seed in seeds
    ]
    tensors = {name: torch.stack([grid[name] for grid in grids]) for name in grids[0]}
    tensors["seeds"] = torch.tensor(list(seeds))
    name = family if isinstance(family, str) else family.name
    metadata = {"family": name, "flow_unit_pixels": str(flow_unit(size)), "width": str(size)}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with durable_file(path) as unfinished:
        save_file(tensors, unfinished, metadata=metadata)


class GridDataset:
    """Random access to the grids of all shards in a directory, memory-mapped; `refresh` finds new shards."""

    def __init__(self, directory: str | Path) -> None:
        """Raises FileNotFoundError if `directory` does not exist; an empty one is an empty data set."""
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise FileNotFoundError(
                f"directory: {self.directory} does not exist; render shards into it first"
            )
        self._shards: dict[str, dict[str, Tensor]] = {}
        self._units: list[float] = []
        self._ends: list[int] = []
        self.refresh()

    def refresh(self) -> int:
        """Add the shards finished since the last look, after those already known, so that indices stay valid.

        Returns the number of grids added.
        """
        before = len(self)
        for path in sorted(self.directory.glob(f"*{SHARD_SUFFIX}")):
            if path.name not in self._shards:
                shard, metadata = _open_shard(path)
                self._shards[path.name] = shard
                self._units.append(float(metadata["flow_unit_pixels"]))
                self._ends.append(len(self) + len(shard["seeds"]))
        self._by_index = list(self._shards.values())
        return len(self) - before

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def seeds(self) -> list[int]:
        """The seed of every grid, in index order."""
        return [seed for shard in self._shards.values() for seed in shard["seeds"].tolist()]

    def frames(self, index: int) -> Tensor:
        """Frames (V, T, 3, H, W) uint8 of grid `index`: a view of the mapped file, not to be written to."""
        shard, offset = self._locate(index)
        return self._by_index[shard]["frames"][offset]

    def __getitem__(self, index: int) -> GridSample:
        shard, offset = self._locate(index)
        stored = {name: tensor[offset] for name, tensor in self._by_index[shard].items()}
        return read_stored(stored, int(stored.pop("seeds")), self._units[shard])

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, expected 0 <= index < {len(self)}")
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)


def check_shard(path: Path, family: SceneFamily, size: int, views: int, times: int) -> None:
    """Raise ValueError if the shard at `path` was rendered from another family or at another size."""
    shard, metadata = _open_shard(path)
    got = (metadata["family"], *shard["frames"].shape[1:])
    expected = (family.name, views, times, 3, size, size)
    if got != expected:
        raise ValueError(
            f"out_dir: {path} holds (family, views, times, 3, H, W) = {got}, expected {expected}; "
            "use another directory"
        )


def check_seeds(seeds: Sequence[int], allow_held_out: bool) -> None:
    """Raise ValueError if there are no seeds, or if one is held out and `allow_held_out` is not set."""
    if len(seeds) == 0:
        raise ValueError("seeds: got none, expected at least one")
    held_out = [seed for seed in seeds if is_held_out(seed)]
    if held_out and not allow_held_out:
        raise ValueError(f"seeds: {held_out[0]} is held out; pass allow_held_out=True only to evaluate on it")


def _open_shard(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    safetensors = import_optional("safetensors", _PURPOSE)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            shard = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(f"directory: {path} is damaged or not a safetensors file: {error}") from error
    if "seeds" not in shard or "flow_unit_pixels" not in metadata:
        raise ValueError(f"directory: {path} is not a shard of rendered grids; expected nothing else there")
    return shard, metadata
