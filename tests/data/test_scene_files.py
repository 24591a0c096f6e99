"""The scene file: its arrays and their meaning."""

import numpy as np

from fourreal_kernels.data import caption, render, sample_scene, write_scene


def test_grid_npz_holds_frames_geometry_and_caption(tmp_path):
    scene = sample_scene(7, views=2, times=3)
    grid = render(scene, 16, 24, supersample=1)
    path = write_scene(tmp_path / "scene", scene, grid)
    assert [entry.name for entry in path.parent.iterdir()] == ["grid.npz"]
    with np.load(path) as stored:
        arrays = dict(stored)
    assert arrays["frames"].shape == (2, 3, 16, 24, 3) and arrays["frames"].dtype == np.uint8
    frames = grid.frames.permute(0, 1, 3, 4, 2).numpy()
    assert np.abs(arrays["frames"] / 255 - frames).max() <= 0.5 / 255 + 1e-6
    assert arrays["depth"].dtype == np.float32
    for name in ("depth", "instance", "intrinsics", "world_to_camera", "object_rotation", "object_position"):
        assert np.array_equal(arrays[name], getattr(grid, name).numpy())
    assert str(arrays["caption"]) == caption(scene)
    assert int(arrays["seed"]) == 7
