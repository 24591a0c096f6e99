"""The files of a grid, written together or not at all, and the order of the film."""

import numpy as np
import pytest
import torch

from fourreal_kernels.data import grid_files
from fourreal_kernels.data.grid_files import save_grid
from fourreal_kernels.data.staging import staged_folder
from fourreal_kernels.data.tour import tour_frames, tour_order
from fourreal_kernels.data.video import VideoError, read_video

pytest.importorskip("av", reason="PyAV is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

NAMES = ["grid.mp4", "grid.npz", "grid.png", "index.html"]


def sample_grid(views=3, times=4, height=24, width=32) -> torch.Tensor:
    level = torch.arange(views * times).view(views, times, 1, 1, 1) / (views * times)
    ramp = torch.linspace(0, 1, width).expand(height, width)
    return (0.5 * level + 0.5 * ramp).expand(views, times, 3, height, width)


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_files_are_written_and_hold_the_grid(tmp_path):
    frames = sample_grid()
    given = np.zeros((3, 4), bool)
    given[0] = given[:, 0] = True
    folder = tmp_path / "new" / "out"
    paths = save_grid(folder, frames, given=given, title="A title", caption="A caption", fps=10)
    assert sorted(paths) == sorted(folder / name for name in NAMES)
    assert names_in(folder) == NAMES
    with np.load(folder / "grid.npz") as arrays:
        expected = (frames.permute(0, 1, 3, 4, 2) * 255).round().to(torch.uint8).numpy()
        assert arrays["frames"].dtype == np.uint8
        assert np.array_equal(arrays["frames"], expected)
        assert np.array_equal(arrays["given"], given)
    with Image.open(folder / "grid.png") as sheet:
        assert sheet.width > 3 * 96 and sheet.height > 4 * 96
    film = read_video(folder / "grid.mp4")
    assert film.fps == 10
    assert len(film.frames) == len(tour_order(3, 4))
    assert min(film.frames.shape[1:3]) >= 256
    page = (folder / "index.html").read_text()
    assert "A title" in page and "A caption" in page


def test_extra_arrays_are_stored_beside_the_frames(tmp_path):
    depth = np.ones((3, 4, 24, 32), np.float32)
    save_grid(tmp_path, sample_grid(), arrays={"depth": depth})
    with np.load(tmp_path / "grid.npz") as arrays:
        assert set(arrays) == {"frames", "depth"}
        assert np.array_equal(arrays["depth"], depth)


def test_own_files_are_replaced_and_others_stay(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "grid.png").write_text("old")
    save_grid(tmp_path, sample_grid())
    assert names_in(tmp_path) == sorted([*NAMES, "mine.txt"])
    with Image.open(tmp_path / "grid.png") as sheet:
        sheet.load()


@pytest.mark.parametrize("existing", [False, True])
def test_failure_writes_nothing(tmp_path, monkeypatch, existing):
    folder = tmp_path / "a" / "out"
    if existing:
        folder.mkdir(parents=True)

    def fail(*args, **kwargs):
        raise RuntimeError("encoder broke")

    monkeypatch.setattr(grid_files, "write_video", fail)
    with pytest.raises(RuntimeError, match="encoder broke"):
        save_grid(folder, sample_grid())
    assert names_in(tmp_path) == (["a"] if existing else [])
    assert not existing or names_in(folder) == []


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"frames": torch.full((2, 2, 3, 8, 8), float("nan"))}, ValueError),
        ({"frames": torch.zeros(2, 3, 8, 8)}, ValueError),
        ({"given": np.zeros((1, 1), bool)}, ValueError),
        ({"fps": 0}, ValueError),
        ({"arrays": {"frames": np.zeros(1)}}, ValueError),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments, error):
    with pytest.raises(error):
        save_grid(tmp_path / "out", **({"frames": sample_grid()} | arguments))
    assert names_in(tmp_path) == []


def test_target_that_is_a_file_or_holds_a_folder_of_a_name(tmp_path):
    (tmp_path / "file").write_text("text")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(VideoError, match="it is a file"):
            save_grid(target, sample_grid())
    (tmp_path / "out" / "grid.png").mkdir(parents=True)
    with pytest.raises(VideoError, match="it is a folder"):
        save_grid(tmp_path / "out", sample_grid())
    assert names_in(tmp_path / "out") == ["grid.png"]


def test_staged_folders_nest(tmp_path):
    with staged_folder(tmp_path / "out") as stage:
        save_grid(stage, sample_grid(1, 2))
        (stage / "run.json").write_text("{}")
        assert not (tmp_path / "out").exists()
    assert names_in(tmp_path / "out") == sorted([*NAMES, "run.json"])


@pytest.mark.parametrize("views, times", [(8, 8), (3, 4), (2, 5), (1, 5), (5, 1), (1, 1)])
def test_film_visits_every_frame_by_steps_to_neighbours(views, times):
    order = tour_order(views, times)
    assert order[0] == (0, 0)
    assert set(order) == {(view, time) for view in range(views) for time in range(times)}
    steps = {abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in zip(order, order[1:], strict=False)}
    assert steps <= {1}


def test_film_goes_round_the_border_first():
    assert tour_order(2, 3) == [
        (0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0), (0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0),
    ]  # fmt: skip


def test_film_frames_are_enlarged_frames_above_a_strip():
    frames = sample_grid()
    film = tour_frames(frames, given=np.ones((3, 4), bool))
    pixels = (frames.permute(0, 1, 3, 4, 2) * 255).round().to(torch.uint8).numpy()
    scale = 11
    assert film.shape[2] == 32 * scale and film.shape[1] > 24 * scale
    for picture, (view, time) in zip(film, tour_order(3, 4), strict=True):
        assert np.array_equal(picture[: 24 * scale : scale, ::scale], pixels[view, time])
    strips = film[:, 24 * scale :]
    assert (strips[0] != strips[1]).any() and np.array_equal(strips[0], strips[film.shape[0] - 12])
