"""``fourreal render``."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fourreal_kernels.data import caption, sample_scene
from fourreal_kernels.data.video import read_video


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = np.mean((first.astype(np.float64) - second) ** 2)
    return float(10 * np.log10(255**2 / error))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    from fourreal_kernels.cli import main

    out = tmp_path_factory.mktemp("render") / "new" / "scene"
    assert main(["render", "--seed", "5", "--out", str(out), "--views", "3", "--times", "4"]) == 0
    return out


def test_files(rendered):
    assert sorted(path.name for path in rendered.iterdir()) == [
        "fixed_view.mp4", "freeze_time.mp4", "grid.npz", "grid.png"
    ]  # fmt: skip
    assert [path.name for path in rendered.parent.iterdir()] == ["scene"]
    with np.load(rendered / "grid.npz") as grid:
        assert grid["frames"].shape == (3, 4, 64, 64, 3) and grid["frames"].dtype == np.uint8
        assert grid["depth"].shape == (3, 4, 64, 64) and grid["depth"].max() > 1
        assert grid["intrinsics"].shape == (3, 3) and grid["world_to_camera"].shape == (3, 4, 4)
        assert str(grid["caption"]) == caption(sample_scene(5, 3, 4))
    with Image.open(rendered / "grid.png") as sheet:
        assert sheet.width >= 3 * 64 and sheet.height >= 4 * 64


def test_videos_give_back_the_frames(rendered):
    frames = np.load(rendered / "grid.npz")["frames"]
    for name, expected in (("fixed_view.mp4", frames[0]), ("freeze_time.mp4", frames[:, 0])):
        clip = read_video(rendered / name)
        assert clip.frames.shape == expected.shape and clip.notes == []
        assert psnr(clip.frames, expected) > 38


def test_output_and_replacement(fourreal, tmp_path):
    (tmp_path / "grid.png").write_text("old")
    (tmp_path / "mine.txt").write_text("keep")
    printed = fourreal(
        "render", "--seed", 900001, "--out", tmp_path, "--views", 2, "--times", 1, "--size", 16, "--family", "hard"
    )
    assert caption(sample_scene(900001, 2, 1, "hard")) in printed
    assert "held out" in printed
    assert str(tmp_path / "freeze_time.mp4") in printed
    assert (tmp_path / "mine.txt").read_text() == "keep"
    assert Image.open(tmp_path / "grid.png").size > (32, 16)
    assert len(read_video(tmp_path / "fixed_view.mp4").frames) == 1
