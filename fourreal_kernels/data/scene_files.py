"""Writing a rendered scene to disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .captions import caption
from .renderer import GridRender
from .scenes import Scene


def write_scene(out_dir: str | Path, scene: Scene, render: GridRender) -> Path:
    """Write `grid.npz` into `out_dir` (made if missing) and return its path.

    Arrays: `frames` (V, T, H, W, 3) uint8; `depth` (V, T, H, W) float32, 0 at the sky; `instance` (V, T, H,
    W) int8; `intrinsics` (3, 3), `world_to_camera` (V, 4, 4), `object_rotation` (T, n, 3, 3),
    `object_position` (T, n, 3) float32; `caption` str; `seed` int64.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    path, unfinished = out_dir / "grid.npz", out_dir / "grid.unfinished.npz"
    frames = (render.frames * 255).round().byte().permute(0, 1, 3, 4, 2)
    np.savez_compressed(
        unfinished,
        frames=frames.cpu().numpy(),
        depth=render.depth.cpu().numpy(),
        instance=render.instance.cpu().numpy().astype(np.int8),
        intrinsics=render.intrinsics.cpu().numpy(),
        world_to_camera=render.world_to_camera.cpu().numpy(),
        object_rotation=render.object_rotation.cpu().numpy(),
        object_position=render.object_position.cpu().numpy(),
        caption=np.array(caption(scene)),
        seed=np.int64(scene.seed),
    )
    unfinished.replace(path)
    return path
