"""Nearest given frames against a search through all of them."""

import pytest
import torch

from fourreal_kernels.model import cross_mask
from fourreal_kernels.model.conditioning import nearest_sources


def _nearest(line, position):
    """Index of the nearest True of a list, the earlier of two, or None."""
    candidates = [i for i, is_given in enumerate(line) if is_given]
    return min(candidates, key=lambda i: (abs(i - position), i)) if candidates else None


def _random_case(views, times, density, seed):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(3, views, times, 3, 2, 4, generator=generator) + 1
    return frames, torch.rand(3, views, times, generator=generator) < density


@pytest.mark.parametrize("density", [0.0, 0.1, 0.3, 0.8, 1.1])
@pytest.mark.parametrize(("views", "times"), [(5, 7), (4, 1), (1, 6)])
def test_nearest_sources_equal_a_search(views, times, density):
    frames, given = _random_case(views, times, density, seed=views)
    frames = torch.where(given[..., None, None, None], frames, float("nan"))
    sources = nearest_sources(frames, given)
    for b, v, t in torch.cartesian_prod(*map(torch.arange, given.shape)).tolist():
        time = _nearest(given[b, v].tolist(), t)
        view = _nearest(given[b, :, t].tolist(), v)
        corner = time is not None and view is not None and bool(given[b, view, time])
        for name, present, index in (
            ("same_view", time is not None, (b, v, time)),
            ("same_time", view is not None, (b, view, t)),
            ("corner", corner, (b, view, time)),
        ):
            expected = frames[index] if present else torch.zeros_like(frames[b, v, t])
            where = f"{name} of {(b, v, t)}"
            assert torch.equal(getattr(sources, name)[b, v, t], expected), where
            assert bool(getattr(sources, f"has_{name}")[b, v, t]) == present, where
        assert time is None or sources.time_index[b, v, t] == time
        assert view is None or sources.view_index[b, v, t] == view


def test_a_given_frame_is_its_own_source():
    frames, given = _random_case(4, 5, 0.5, seed=1)
    sources = nearest_sources(frames, given)
    for source in (sources.same_view, sources.same_time, sources.corner):
        assert torch.equal(source[given], frames[given])


@pytest.mark.parametrize(("views", "times"), [(1, 1), (3, 1), (2, 5)])
def test_cross_mask(views, times):
    given = cross_mask(views, times)
    assert given.dtype == torch.bool and given.shape == (views, times)
    for view in range(views):
        for time in range(times):
            assert bool(given[view, time]) == (view == 0 or time == 0)


def test_under_the_cross_the_sources_are_the_paper_s_two_videos():
    frames = torch.rand(1, 3, 4, 3, 2, 2)
    sources = nearest_sources(frames, cross_mask(3, 4)[None])
    inner = (slice(None), slice(1, None), slice(1, None))
    assert torch.equal(sources.same_view[inner], frames[:, 1:, :1].expand(-1, -1, 3, -1, -1, -1))
    assert torch.equal(sources.same_time[inner], frames[:, :1, 1:].expand(-1, 2, -1, -1, -1, -1))
    assert torch.equal(sources.corner[inner], frames[:, :1, :1].expand(-1, 2, 3, -1, -1, -1))
