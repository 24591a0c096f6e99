"""Displacement, matching of given frames, and the flows that are carried over to missing frames."""

import pytest
import torch
import torch.nn.functional as F

from fourreal_kernels.model.alignment import align, unaligned
from fourreal_kernels.model.conditioning import cross_mask, nearest_sources
from fourreal_kernels.model.matching import compose, displace, match

HEIGHT, WIDTH = 32, 40
MARGIN = 40


def _texture():
    """A smooth random texture ``(3, H, W)`` in [-1, 1], larger than a frame by MARGIN on every side."""
    noise = torch.randn(1, 3, (HEIGHT + 2 * MARGIN) // 8, (WIDTH + 2 * MARGIN) // 8)
    return F.interpolate(noise, scale_factor=8, mode="bicubic")[0].mul(0.5).clamp(-1, 1)


def _moved(texture, dx, dy):
    """The frame ``(3, HEIGHT, WIDTH)`` in which the surface of the texture has moved by (dx, dy) whole pixels."""
    return texture[:, MARGIN - dy : MARGIN - dy + HEIGHT, MARGIN - dx : MARGIN - dx + WIDTH]


def _constant_flow(dx, dy, count=1):
    return torch.tensor([dx, dy], dtype=torch.float32)[None, :, None, None].expand(count, 2, HEIGHT, WIDTH)


every_mode = pytest.mark.parametrize("mode", ["bilinear", "bicubic"])


@every_mode
def test_no_displacement_is_the_identity(mode):
    frames = torch.rand(2, 3, 6, 9)
    torch.testing.assert_close(displace(frames, torch.zeros(2, 2, 6, 9), mode), frames, atol=1e-5, rtol=0)


@every_mode
@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, -3), (-1, 2), (20, -20)])
def test_whole_displacements_pick_pixels_and_repeat_the_border(dx, dy, mode):
    frames, flow = torch.rand(2, 3, 6, 9), torch.zeros(2, 2, 6, 9)
    flow[:, 0], flow[:, 1] = dx, dy
    y = (torch.arange(6) + dy).clamp(0, 5)
    x = (torch.arange(9) + dx).clamp(0, 8)
    torch.testing.assert_close(displace(frames, flow, mode), frames[:, :, y][:, :, :, x], atol=2e-5, rtol=0)


def test_half_displacements_average_two_pixels():
    frames, flow = torch.rand(1, 3, 6, 9), torch.zeros(1, 2, 6, 9)
    flow[:, 0] = 0.5
    result = displace(frames, flow)[..., :-1]
    torch.testing.assert_close(result, (frames[..., 1:] + frames[..., :-1]) / 2, atol=1e-5, rtol=0)


def test_bicubic_keeps_more_of_a_fine_texture_than_bilinear():
    frames, flow = torch.rand(1, 3, 6, 40), torch.full((1, 2, 6, 40), 0.5)
    flow[:, 1] = 0
    spread = {mode: displace(frames, flow, mode).std() for mode in ("bilinear", "bicubic")}
    assert spread["bilinear"] < spread["bicubic"] < frames.std()


@every_mode
def test_every_pixel_has_its_own_displacement(mode):
    frames, flow = torch.rand(2, 3, 6, 9), torch.zeros(2, 2, 6, 9)
    flow[1, 0, 2, 3], flow[1, 1, 2, 3] = 4, -1
    expected = frames.clone()
    expected[1, :, 2, 3] = frames[1, :, 1, 7]
    torch.testing.assert_close(displace(frames, flow, mode), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, -1), (-6, 4), (9, 8)])
def test_matching_finds_a_translation(dx, dy):
    texture = _texture()
    template, target = _moved(texture, 0, 0)[None], _moved(texture, dx, dy)[None]
    flow = match(template, target)
    inner = (..., slice(10, -10), slice(10, -10))
    distance = (flow - _constant_flow(dx, dy)).norm(dim=1)[inner]
    assert (distance < 0.5).float().mean() > 0.8
    error, unmoved = ((x - template)[inner].abs().mean() for x in (displace(target, flow), target))
    assert error < 0.15 * unmoved + 2e-3


def test_composed_flows_of_two_translations():
    """The surface moves by a to the frame of the same view and by b to that of the same timestep."""
    texture, (ax, ay), (bx, by) = _texture(), (3, 1), (-2, 4)
    corner, same_view, same_time = (_moved(texture, *m)[None] for m in ((0, 0), (ax, ay), (bx, by)))
    to_view, to_time = _constant_flow(ax, ay), _constant_flow(bx, by)
    flow_view, flow_time, confidence, errors = compose(corner, same_view, same_time, to_view, to_time)
    inner = (..., slice(6, -6), slice(6, -6))
    torch.testing.assert_close(flow_view[inner], _constant_flow(-bx, -by)[inner], atol=1e-4, rtol=0)
    torch.testing.assert_close(flow_time[inner], _constant_flow(-ax, -ay)[inner], atol=1e-4, rtol=0)
    torch.testing.assert_close(confidence[inner], torch.ones(1, 1, HEIGHT, WIDTH)[inner], atol=1e-4, rtol=0)
    assert confidence.amin() == 0, "nothing arrives at the border that the surface left"
    torch.testing.assert_close(errors[inner], torch.zeros(1, 2, HEIGHT, WIDTH)[inner], atol=1e-4, rtol=0)
    missing = _moved(texture, ax + bx, ay + by)[None]
    for source, flow in ((same_view, flow_view), (same_time, flow_time)):
        torch.testing.assert_close(displace(source, flow)[inner], missing[inner], atol=1e-3, rtol=0)


def test_errors_of_composed_flows_belong_to_the_match_each_was_taken_from():
    """Another colour in the frame of the same timestep spoils the match along time, which gives the flow to the frame
    of the same view, and only that one."""
    texture = _texture()
    corner, same_view = _moved(texture, 0, 0)[None], _moved(texture, 3, 1)[None]
    none = _constant_flow(0, 0)
    *_, errors = compose(corner, same_view, corner + 0.2, _constant_flow(3, 1), none)
    inner = (..., slice(8, -8), slice(8, -8))
    expected = torch.tensor([0.2, 0.0])[None, :, None, None].expand_as(errors)
    torch.testing.assert_close(errors[inner], expected[inner], atol=1e-4, rtol=0)


def test_clips_are_matched_outward_from_the_corner():
    """A surface that leaves the reach of one search is followed from frame to frame."""
    texture, step, count = _texture(), 5, 5
    frames = torch.stack([_moved(texture, step * t, 0) for t in range(count + 1)])
    grid, given = torch.stack([frames, frames])[None], torch.ones(1, 2, count + 1, dtype=torch.bool)
    given[0, 1, 1:] = False
    seen = (..., slice(8, -8), slice(step * count + 2, WIDTH - 2))
    expected = _constant_flow(-step * count, 0)
    followed = align(grid, given, nearest_sources(grid, given)).flow_same_view[0, 1, -1:]
    assert (followed - expected).norm(dim=1)[seen].median() < 0.5
    alone = match(frames[:1], frames[-1:])
    assert (alone + expected).norm(dim=1)[..., 8:-8, 2 : WIDTH - step * count - 2].median() > 4


def _moving_grid():
    """``(1, 3, 3, 3, H, W)``: the surface moves by (2, 1) per view and (-1, 2) per timestep."""
    texture = _texture()
    rows = [torch.stack([_moved(texture, 2 * v - t, v + 2 * t) for t in range(3)]) for v in range(3)]
    return torch.stack(rows)[None]


def test_aligned_sources_are_close_to_missing_frames():
    frames = _moving_grid()
    given = cross_mask(3, 3)[None]
    hidden = torch.where(given[..., None, None, None], frames, float("nan"))
    sources = nearest_sources(hidden, given)
    aligned, as_they_are = align(hidden, given, sources), unaligned(sources)
    inner = (..., slice(8, -8), slice(8, -8))
    for name in ("same_view", "same_time"):
        errors = [(getattr(a, name) - frames).abs()[~given][inner].mean() for a in (aligned, as_they_are)]
        assert errors[0] < 0.2 * errors[1], name
    assert aligned.confidence[~given][inner].mean() > 0.5


def test_given_frames_and_frames_without_a_corner_stay_unaligned():
    frames = _moving_grid()
    given = torch.zeros(1, 3, 3, dtype=torch.bool)
    given[0, 0, 0] = given[0, 1, 1] = given[0, 0, 1] = True
    sources = nearest_sources(frames, given)
    alignment = align(frames, given, sources)
    moved = ~given & sources.has_corner
    assert moved.sum() == 1 and (alignment.flow_same_view[moved] != 0).any()
    assert not alignment.flow_same_view[~moved].any() and not alignment.flow_same_time[~moved].any()
    assert not alignment.confidence[~moved].any()
    torch.testing.assert_close(alignment.same_view[~moved], sources.same_view[~moved], atol=1e-5, rtol=0)
    torch.testing.assert_close(alignment.same_time[~moved], sources.same_time[~moved], atol=1e-5, rtol=0)


def test_unaligned_is_the_sources_with_zero_flows():
    frames, given = _moving_grid(), cross_mask(3, 3)[None]
    sources = nearest_sources(frames, given)
    alignment = unaligned(sources)
    assert torch.equal(alignment.same_view, sources.same_view) and torch.equal(alignment.same_time, sources.same_time)
    assert alignment.flow_same_view.shape == (1, 3, 3, 2, HEIGHT, WIDTH)
    assert alignment.confidence.shape == (1, 3, 3, 1, HEIGHT, WIDTH)
    assert not alignment.flow_same_view.any() and not alignment.confidence.any()
