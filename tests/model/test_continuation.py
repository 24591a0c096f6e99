"""Windows of larger grids: what they cover, in which order, and what conditions them."""

import pytest
import torch

from fourreal_kernels.model import GridPipeline, cross_mask
from fourreal_kernels.model.continuation import WINDOWS, Window, plan_windows
from tiny_models import random_model


def _random_mask(views, times, density, seed):
    given = torch.rand(views, times, generator=torch.Generator().manual_seed(seed)) < density
    given[seed % views, seed % times] = True
    return given


MASKS = [
    *(cross_mask(*shape) for shape in ((16, 16), (4, 16), (16, 4), (8, 8), (9, 23), (2, 64))),
    *(_random_mask(11, 17, density, seed) for density in (0.0, 0.3) for seed in range(3)),
]


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("given", MASKS, ids=lambda given: "x".join(map(str, given.shape)))
def test_windows_cover_the_grid_and_each_follows_from_known_frames(given, windows):
    known = given.clone()
    for window in plan_windows(given, (8, 8), windows):
        part = torch.tensor(window.views)[:, None], torch.tensor(window.times)
        assert known[part].any() and not known[part].all()
        assert list(window.views) == sorted(set(window.views)) and list(window.times) == sorted(set(window.times))
        assert windows == "whole" or (len(window.views) <= 8 and len(window.times) <= 8)
        known[part] = True
    assert known.all()


def test_cross_windows_generate_from_given_frames_alone():
    """No frame is generated twice, and none is conditioned by a generated one."""
    given = cross_mask(16, 16)
    generated = torch.zeros(16, 16, dtype=torch.long)
    for views, times in plan_windows(given, (8, 8)):
        part = torch.tensor(views)[:, None], torch.tensor(times)
        assert views[0] == times[0] == 0 and generated[part].sum() == 0
        generated[part] += (~given[part]).long()
    assert torch.equal(generated, (~given).long())


def test_cross_windows_hold_the_lines_with_most_given_frames():
    given = torch.zeros(10, 10, dtype=torch.bool)
    given[6, :] = given[:, 3] = True
    assert all(6 in window.views and 3 in window.times for window in plan_windows(given, (4, 4)))


def test_sliding_windows_overlap_by_half():
    plan = plan_windows(cross_mask(2, 16), (8, 8), "sliding")
    assert plan == [Window((0, 1), tuple(range(start, start + 8))) for start in (0, 4, 8)]


def test_lines_of_one_frame_count_as_two():
    assert plan_windows(cross_mask(3, 2), (1, 1)) == [Window((0, 1), (0, 1)), Window((0, 2), (0, 1))]


@pytest.fixture(scope="module")
def pipeline():
    return GridPipeline(random_model())


def _frames(views, times):
    return torch.rand(views, times, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def test_a_window_is_generated_as_a_grid_of_its_own(pipeline):
    """Frame by frame that of the model on the window alone, with the given frames and with those generated before."""
    frames, given = _frames(3, 6), cross_mask(3, 6)
    video = pipeline.complete(frames, given, windows="sliding", steps=1, progress=False)
    first, second = plan_windows(given, (3, 4), "sliding")
    noise = torch.randn(1, 3, 6, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    known = given.clone()
    for times in (list(first.times), list(second.times)):
        shown = torch.where(known[..., None, None, None], video.frames * 2 - 1, noise[0])
        with torch.no_grad():
            answer = pipeline.model(shown[None][:, :, times], known[None][:, :, times], torch.ones(1)).frames[0]
        new = ~known[:, times]
        expected = (answer.clamp(-1, 1) / 2 + 0.5)[new]
        # Rounding of the conditioning to [0, 1] and back, amplified by random weights; other frames differ by 0.1.
        torch.testing.assert_close(video.frames[:, times][new], expected, atol=1e-4, rtol=0)
        known[:, times] = True
    assert known.all() and torch.equal(video.frames[given], frames[given])


@pytest.mark.parametrize("windows", WINDOWS)
def test_only_given_frames_are_read_and_masks_are_kept(pipeline, windows):
    frames, given = _frames(6, 7), _random_mask(6, 7, 0.2, 5)
    hidden = torch.where(given[..., None, None, None], frames, float("nan"))
    kept = given.clone()
    video = pipeline.complete(hidden, given, windows=windows, steps=2, progress=False)
    assert video.frames.isfinite().all() and torch.equal(video.frames[given], frames[given])
    assert torch.equal(given, kept) and torch.equal(video.given, kept)
    again = pipeline.complete(frames, given, windows=windows, steps=2, progress=False)
    assert torch.equal(again.frames, video.frames)
