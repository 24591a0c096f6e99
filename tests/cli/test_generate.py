"""``fourreal generate``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fourreal_kernels
from fourreal_kernels import dispatch
from fourreal_kernels.cli.backends import chosen_backends
from fourreal_kernels.data import freeze_time_from_image
from fourreal_kernels.data.video import fit_clip, read_video, write_video
from fourreal_kernels.model import GridConfig, GridPipeline
from fourreal_kernels.model.config import MODES

NAMES = ["grid.mp4", "grid.npz", "grid.png", "index.html", "run.json"]


@pytest.fixture
def generate(fourreal, tiny_model, clips):
    def run(out: Path, *options: object, fixed: Path = clips / "fixed.mp4", freeze: Path = clips / "freeze.mp4") -> str:
        inputs = ("--fixed-view", fixed, "--freeze-time", freeze)
        return fourreal("generate", "--model", tiny_model, *inputs, "--steps", 2, "--out", out, *options)

    return run


def frames_of(out: Path) -> np.ndarray:
    with np.load(out / "grid.npz") as grid:
        return grid["frames"]


def record_of(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())


def test_files(generate, tmp_path, clips):
    printed = generate(tmp_path / "out")
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert all(str(out / name) in printed for name in NAMES)
    frames = frames_of(out)
    assert frames.shape == (3, 3, 16, 16, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames[0], read_video(clips / "fixed.mp4").frames)
    assert np.array_equal(frames[:, 0], read_video(clips / "freeze.mp4").frames)
    assert len(read_video(out / "grid.mp4").frames) > 9
    assert "<script" in (out / "index.html").read_text()
    with Image.open(out / "grid.png") as sheet:
        assert sheet.width > 3 * 16


def test_record(generate, tmp_path, clips, tiny_model):
    generate(tmp_path, "--seed", 7, "--sampler", "heun")
    record = record_of(tmp_path)
    assert record["inputs"]["fixed_view"] == {
        "path": str(clips / "fixed.mp4"), "frames": 3, "height": 16, "width": 16, "fps": 8.0, "notes": []
    }  # fmt: skip
    settings = record["settings"]
    assert settings["model"] == str(tiny_model) == settings["model_path"]
    assert GridConfig.from_dict(settings["config"]).views == 3
    assert (settings["steps"], settings["sampler"], settings["seed"]) == (2, "heun", 7)
    assert (settings["device"], settings["backend"]) == ("cpu", "auto")
    assert set(settings["operator_backends"]) == {"qk_norm_rope_", "two_stream_attention", "sync_exchange_"}
    assert record["versions"]["fourreal_kernels"] == fourreal_kernels.__version__
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["cpu"] and record["versions"]["python"] and record["versions"]["platform"]
    assert set(record["seconds"]) == {"load", "read", "generate", "write"}
    assert all(value >= 0 for value in record["seconds"].values())


@pytest.mark.parametrize("name", ["long.mp4", "long.gif", "images"])
def test_every_change_of_the_input_is_stated(generate, tmp_path, clips, name):
    printed = generate(tmp_path, fixed=clips / name)
    record = record_of(tmp_path)["inputs"]["fixed_view"]
    assert (record["frames"], record["width"], record["height"]) == (7, 48, 30)
    if name == "long.mp4":
        assert record["fps"] == 8
    for change in ("7 frames -> 3", "centre crop 48x30 -> 30x30", "resized 30x30 -> 16x16", "frame sizes"):
        assert any(change in note for note in record["notes"])
        assert change in printed
    assert any("first frames of the two videos differ" in note for note in record_of(tmp_path)["notes"])
    assert "first frames of the two videos differ" in printed


def test_seeds_decide(generate, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate(tmp_path / name, "--seed", seed)
    assert np.array_equal(frames_of(tmp_path / "a"), frames_of(tmp_path / "b"))
    assert not np.array_equal(frames_of(tmp_path / "a"), frames_of(tmp_path / "c"))


def test_backends_agree(generate, tmp_path, monkeypatch):
    """The files hold 8 bits; the frames before rounding agree to 1e-4."""
    frames = {}
    save = fourreal_kernels.model.GridVideo.save

    def keep(video, folder, **options):
        frames[backend] = video.frames
        return save(video, folder, **options)

    monkeypatch.setattr(fourreal_kernels.model.GridVideo, "save", keep)
    for backend in ("reference", "sdpa"):
        generate(tmp_path / backend, "--backend", backend)
        chosen = record_of(tmp_path / backend)["settings"]["operator_backends"]
        assert chosen["two_stream_attention"] == backend
    assert (frames["reference"] - frames["sdpa"]).abs().max() < 1e-4
    assert frames["reference"].std() > 0.05


@pytest.mark.parametrize("mode", MODES)
def test_stated_backends_are_those_that_run(make_model, mode, monkeypatch):
    model = make_model(
        GridConfig(views=2, times=3, height=16, width=8, dim=24, depth=1, heads=2, sync_cond_dim=8, mode=mode)
    )
    stated = chosen_backends(model, 2, 3, "auto")
    select, ran = dispatch.select, {}

    def recorded(op, call, backend):
        ran[op] = select(op, call, backend)
        return ran[op]

    monkeypatch.setattr(dispatch, "select", recorded)
    GridPipeline(model)(torch.rand(3, 3, 16, 8), torch.rand(2, 3, 16, 8), steps=1, progress=False)
    # In place or not, and one stream or two, are choices inside an operator; they share their backends.
    shared = {"two_stream_attention": "axis_attention"}
    assert {shared.get(op, op.removesuffix("_")): name for op, name in stated.items()} == ran


def test_larger_grid(generate, tmp_path, clips):
    """The model was trained on 3 x 3; every file is written for 5 x 4."""
    generate(tmp_path, "--views", 5, "--times", 4, fixed=clips / "long.mp4", freeze=clips / "long.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    assert frames_of(tmp_path).shape == (5, 4, 16, 16, 3)
    record = record_of(tmp_path)
    assert (record["settings"]["views"], record["settings"]["times"]) == (5, 4)
    assert any("generated in 4 windows (cross)" in note for note in record["notes"])


@pytest.mark.parametrize("name", ["fixed-view", "freeze-time"])
def test_one_video_alone(fourreal, tiny_model, tmp_path, clips, name):
    video = clips / "fixed.mp4"
    printed = fourreal("generate", "--model", tiny_model, f"--{name}", video, "--steps", 1, "--out", tmp_path)
    assert "generated 6 of 9 frames" in printed and "note: no f" in printed
    assert list(record_of(tmp_path)["inputs"]) == [name.replace("-", "_")]
    frames = frames_of(tmp_path)
    given = frames[0] if name == "fixed-view" else frames[:, 0]
    assert np.array_equal(given, read_video(video).frames)


def test_files_of_an_earlier_run_are_replaced(generate, tmp_path):
    (tmp_path / "run.json").write_text("old")
    (tmp_path / "mine.txt").write_text("keep")
    generate(tmp_path)
    assert record_of(tmp_path)["settings"]["steps"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*NAMES, "mine.txt"])


def test_inputs_may_lie_in_the_output_folder(generate, tmp_path, clips):
    for name in ("fixed.mp4", "freeze.mp4"):
        (tmp_path / name).write_bytes((clips / name).read_bytes())
    generate(tmp_path, fixed=tmp_path / "fixed.mp4", freeze=tmp_path / "freeze.mp4")
    assert (tmp_path / "grid.npz").is_file() and (tmp_path / "fixed.mp4").is_file()


def test_rendered_scene_is_read_back(fourreal, generate, tmp_path):
    fourreal("render", "--seed", 2, "--out", tmp_path / "scene", "--views", 3, "--times", 3, "--size", 16)
    scene = tmp_path / "scene"
    printed = generate(tmp_path / "out", fixed=scene / "fixed_view.mp4", freeze=scene / "freeze_time.mp4")
    assert "note" not in printed
    assert record_of(tmp_path / "out")["notes"] == []
    error = frames_of(tmp_path / "out")[0].astype(float) - np.load(scene / "grid.npz")["frames"][0]
    assert np.abs(error).mean() < 2


@pytest.mark.optional
def test_real_clip(generate, tmp_path):
    clip_path = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
    if not clip_path.is_file():
        pytest.skip("the clip of opencv-doc (Debian) is not installed")
    first, _ = fit_clip(read_video(clip_path, max_frames=1), 1, (16, 16))
    write_video(tmp_path / "freeze", freeze_time_from_image(first[0], 3, torch.Generator().manual_seed(0)))
    printed = generate(tmp_path / "out", fixed=clip_path, freeze=tmp_path / "freeze")
    record = record_of(tmp_path / "out")["inputs"]["fixed_view"]
    assert record["frames"] > 100 and (record["width"], record["height"]) == (768, 576)
    assert "centre crop 768x576 -> 576x576" in printed
    assert "first frames" not in printed


def test_bundled_sample_and_model(fourreal, tmp_path):
    """Needs the weights that come with the library."""
    printed = fourreal("generate", "--steps", 1, "--out", tmp_path)
    frames = frames_of(tmp_path)
    assert frames.shape == (8, 8, 64, 64, 3)
    record = record_of(tmp_path)
    assert record["settings"]["model"] == "bundled"
    assert record["inputs"]["freeze_time"]["path"].endswith("fourreal_kernels/model/sample/freeze_time.mp4")
    assert record["notes"] == [] and "note" not in printed
    assert frames[1:, 1:].std() > 10
