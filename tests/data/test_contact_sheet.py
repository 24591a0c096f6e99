"""Contact sheets: every frame at its place, given frames outlined, labels that do not cover frames."""

import numpy as np
import pytest
import torch

pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from fourreal_kernels.data.contact_sheet import GIVEN_COLOR, comparison_sheet, contact_sheet  # noqa: E402


def flat_grid(views: int, times: int, height: int = 20, width: int = 30) -> np.ndarray:
    """uint8 (V, T, H, W, 3): the colour of a frame states its view and time."""
    grid = np.zeros((views, times, height, width, 3), np.uint8)
    grid[..., 0] = 10 * np.arange(1, views + 1)[:, None, None, None]
    grid[..., 1] = 10 * np.arange(1, times + 1)[None, :, None, None]
    grid[..., 2] = 77
    return grid


def pixels_of(picture) -> np.ndarray:
    return np.asarray(picture)


def test_bare_sheet_has_view_across_and_time_down():
    grid = flat_grid(3, 2, 4, 5)
    sheet = pixels_of(contact_sheet(grid, labels=False, gap=0))
    assert sheet.shape == (2 * 4, 3 * 5, 3)
    for view in range(3):
        for time in range(2):
            cell = sheet[4 * time : 4 * time + 4, 5 * view : 5 * view + 5]
            assert np.array_equal(cell, grid[view, time])


def test_gap_and_scale():
    sheet = pixels_of(contact_sheet(flat_grid(3, 2, 4, 5), labels=False, gap=2, scale=3))
    assert sheet.shape == (2 * 12 + 6, 3 * 15 + 2 * 6, 3)
    assert (sheet[12:18] == 255).all()
    assert (sheet[:12, :15] == flat_grid(1, 1)[0, 0, 0, 0]).all()


def test_float_tensor_gives_the_same_sheet():
    grid = flat_grid(2, 2)
    tensor = torch.from_numpy(grid).permute(0, 1, 4, 2, 3).float() / 255
    assert np.array_equal(contact_sheet(grid), contact_sheet(tensor))


@pytest.mark.parametrize("labels", [False, True])
def test_frames_keep_all_pixels_under_outlines_and_labels(labels):
    grid = flat_grid(4, 3)
    given = np.zeros((4, 3), bool)
    given[0] = given[:, 0] = True
    sheet = pixels_of(contact_sheet(grid, given=given, labels=labels, gap=0))
    for view in range(4):
        for time in range(3):
            assert (sheet == grid[view, time, 0, 0]).all(axis=-1).sum() == 20 * 30


def test_outline_surrounds_given_frames_only():
    given = np.zeros((3, 2), bool)
    given[1, 1] = True
    sheet = pixels_of(contact_sheet(flat_grid(3, 2), given=given, labels=False))
    y, x = np.nonzero((sheet == GIVEN_COLOR).all(axis=-1))
    left, top = 2 + 1 * (30 + 2), 2 + 1 * (20 + 2)
    assert (x.min(), x.max(), y.min(), y.max()) == (left - 2, left + 31, top - 2, top + 21)
    assert len(x) == 34 * 24 - 30 * 20


def test_labels_lie_outside_the_frames():
    bare = contact_sheet(flat_grid(3, 2), labels=False)
    labelled = contact_sheet(flat_grid(3, 2), labels=True)
    assert labelled.width > bare.width and labelled.height > bare.height
    sheet = pixels_of(labelled)
    top, left = (np.argmax((sheet == (10, 10, 77)).all(axis=-1).any(axis=axis)) for axis in (1, 0))
    assert (sheet[:top, left:] < 128).any(), "no label above the frames"
    assert (sheet[top:, :left] < 128).any(), "no label left of the frames"


def test_labels_of_small_frames_do_not_touch():
    sheet = pixels_of(contact_sheet(flat_grid(12, 12, 12, 12)))
    top = np.argmax((sheet == (10, 10, 77)).all(axis=-1).any(axis=1))
    inked = (sheet[:top] < 200).any(axis=(0, 2))
    clear_gaps = np.diff(np.flatnonzero(inked)) > 6
    assert clear_gaps.sum() == 2, "the labels of views 0, 4 and 8 stand apart"


def test_legend_fits_a_narrow_sheet():
    narrow = contact_sheet(flat_grid(1, 1, 12, 12), given=np.ones((1, 1), bool))
    wide = contact_sheet(flat_grid(12, 1, 12, 12), given=np.ones((12, 1), bool))
    inked = [(pixels_of(sheet)[-12:] == GIVEN_COLOR).all(axis=-1).sum() for sheet in (narrow, wide)]
    assert inked[0] == inked[1] > 0


@pytest.mark.parametrize("views, times, height, width", [(1, 1, 1, 1), (1, 5, 8, 8), (5, 1, 64, 36)])
def test_degenerate_grids(views, times, height, width):
    sheet = contact_sheet(flat_grid(views, times, height, width), given=np.ones((views, times), bool))
    assert sheet.width > views * width and sheet.height > times * height


def test_comparison_puts_named_grids_side_by_side():
    first, second = flat_grid(3, 2), flat_grid(3, 2)
    second[..., 2] = 200
    given = np.zeros((3, 2), bool)
    given[0] = True
    sheet = pixels_of(comparison_sheet({"generated": first, "truth": second}, given={"generated": given}))
    for grid in (first, second):
        for view in range(3):
            assert (sheet == grid[view, 0, 0, 0]).all(axis=-1).sum() == 4 * 20 * 30
    blue_right = np.nonzero((sheet[..., 2] == 200) & (sheet[..., 0] < 40))[1].min()
    blue_left = np.nonzero((sheet[..., 2] == 77) & (sheet[..., 0] < 40))[1].max()
    assert blue_left < blue_right
    outlined = np.nonzero((sheet == GIVEN_COLOR).all(axis=-1))[1]
    assert outlined.size and outlined.max() < blue_right


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ({"frames": np.zeros((2, 2, 8, 8, 4), np.uint8)}, ValueError, "frames"),
        ({"frames": torch.zeros(2, 3, 8, 8)}, ValueError, "frames"),
        ({"frames": torch.full((2, 2, 3, 8, 8), float("inf"))}, ValueError, "inf"),
        ({"frames": np.zeros((2, 2, 8, 8, 3), np.int32)}, TypeError, "int32"),
        ({"given": np.zeros((2, 3), bool)}, ValueError, "given"),
        ({"given": np.zeros((2, 2), int)}, ValueError, "given"),
        ({"gap": -1}, ValueError, "gap"),
        ({"scale": 0}, ValueError, "scale"),
    ],
)
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        contact_sheet(**({"frames": flat_grid(2, 2)} | arguments))


def test_bad_comparisons():
    with pytest.raises(ValueError, match="at least one"):
        comparison_sheet({})
    with pytest.raises(ValueError, match="unknown names"):
        comparison_sheet({"a": flat_grid(1, 1)}, given={"b": np.ones((1, 1), bool)})
