"""The viewer file itself: self-contained, with every frame inside; its behaviour is tested in a browser."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch

from fourreal_kernels.data import viewer
from fourreal_kernels.data.video import VideoError
from fourreal_kernels.data.viewer import write_viewer

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def noise_grid(views=3, times=4, height=20, width=36) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (views, times, height, width, 3), dtype=np.uint8)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="grid">(.*?)</script>', page, re.S)[1])


def frames_of(data: dict) -> np.ndarray:
    """Cut the atlas as the page does."""
    _, _, encoded = data["atlas"].partition("base64,")
    atlas = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
    frames = []
    for cell in range(data["views"] * data["times"]):
        left, top = cell % data["across"] * data["pitch_x"], cell // data["across"] * data["pitch_y"]
        frames.append(atlas[top : top + data["height"], left : left + data["width"]])
    return np.stack(frames).reshape(data["views"], data["times"], data["height"], data["width"], 3)


@pytest.mark.parametrize("shape", [(3, 4, 20, 36), (1, 1, 9, 7), (8, 8, 64, 64), (1, 9, 16, 16)])
def test_page_holds_every_frame_exactly(tmp_path, shape):
    grid = noise_grid(*shape)
    write_viewer(tmp_path / "a.html", grid, title="t")
    data = data_of((tmp_path / "a.html").read_text())
    assert (data["views"], data["times"]) == shape[:2]
    assert data["given"] is None
    assert np.array_equal(frames_of(data), grid)


@pytest.mark.parametrize("limit", ["LOSSLESS_MAX_BYTES", "LOSSLESS_MAX_PIXELS"])
def test_large_grid_is_stored_lossy(tmp_path, monkeypatch, limit):
    y, x = np.mgrid[0:70, 0:100] / 15
    frame = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=-1)
    frame = (127 + 100 * frame).astype(np.uint8)
    grid = np.stack([np.roll(frame, 7 * index, axis=1) for index in range(12)]).reshape(3, 4, 70, 100, 3)
    write_viewer(tmp_path / "exact.html", grid, title="t")
    assert np.array_equal(frames_of(data_of((tmp_path / "exact.html").read_text())), grid)
    monkeypatch.setattr(viewer, limit, 1000)
    write_viewer(tmp_path / "lossy.html", grid, title="t")
    error = np.abs(frames_of(data_of((tmp_path / "lossy.html").read_text())).astype(int) - grid)
    assert 0 < error.mean() < 3


def test_page_needs_nothing_from_outside(tmp_path):
    write_viewer(tmp_path / "a.html", noise_grid(), title="t")
    page = (tmp_path / "a.html").read_text()
    sources = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\'\s)>]+)', page)
    assert all(source.startswith(("data:", "grid.atlas")) for source in sources), sources
    assert "http://" not in page and "https://" not in page
    assert "default-src 'none'" in page
    assert "{{" not in page


def test_text_is_escaped(tmp_path):
    title = "</script><script>alert(1)</script> {{data}}"
    write_viewer(tmp_path / "a.html", noise_grid(), title=title, caption="a < b & {{title}}")
    page = (tmp_path / "a.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page and "{{data}}" in page
    assert "a &lt; b &amp; {{title}}" in page
    assert page.count('"atlas"') == 1


def test_given_frames_and_speed_are_stored(tmp_path):
    given = np.zeros((3, 4), bool)
    given[0] = given[:, 0] = True
    write_viewer(tmp_path / "a.html", noise_grid(), title="t", given=torch.from_numpy(given), fps=12)
    data = data_of((tmp_path / "a.html").read_text())
    assert data["given"] == given.astype(int).tolist()
    assert data["fps"] == 12


def test_caption_is_hidden_when_there_is_none(tmp_path):
    write_viewer(tmp_path / "a.html", noise_grid(), title="t")
    assert '<p id="caption" hidden></p>' in (tmp_path / "a.html").read_text()


def test_png_where_pillow_has_no_webp(tmp_path, monkeypatch):
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: False)
    write_viewer(tmp_path / "a.html", noise_grid(), title="t")
    data = data_of((tmp_path / "a.html").read_text())
    assert data["atlas"].startswith("data:image/png;base64,")
    assert np.array_equal(frames_of(data), noise_grid())


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"frames": torch.zeros(3, 8, 8)}, "frames"),
        ({"frames": torch.full((1, 1, 3, 8, 8), float("nan"))}, "nan"),
        ({"given": np.zeros((4, 3), bool)}, "given"),
        ({"fps": 0}, "fps"),
        ({"frames": np.zeros((1, 1, 1, 17000, 3), np.uint8)}, "16383"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments, text):
    with pytest.raises(ValueError, match=text):
        write_viewer(tmp_path / "a.html", **({"frames": noise_grid(), "title": "t"} | arguments))
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(VideoError, match="does not exist"):
        write_viewer(tmp_path / "absent" / "a.html", noise_grid(), title="t")
