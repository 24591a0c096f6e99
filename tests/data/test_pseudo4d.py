"""Pseudo-4D grids: exact copies, exact flow, no border."""

import pytest
import torch

from fourreal_kernels.data import (
    freeze_time_from_image,
    homography_flow,
    homography_path,
    pixel_positions,
    pseudo_4d,
    warp,
)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _smooth_clip(times=3, height=48, width=64):
    """A low-frequency pattern that moves to the right, so that bilinear sampling is accurate."""
    x, y = pixel_positions(height, width)
    time = torch.arange(times)[:, None, None]
    channels = [
        (x * 0.12 - time).sin(),
        (y * 0.1 + x * 0.05).cos().expand(times, -1, -1),
        (y * 0.13 + time).sin(),
    ]
    return torch.stack(channels, dim=1) * 0.5 + 0.5


def test_identity_homographies_copy_the_clip():
    clip = _smooth_clip()
    still = torch.eye(3).expand(4, 3, 3)
    for frames in (pseudo_4d(clip, 4, path=still), pseudo_4d(clip, 4, _generator(), strength=0.0)):
        assert frames.shape == (4, *clip.shape)
        torch.testing.assert_close(frames, clip.expand(4, -1, -1, -1, -1), atol=1e-4, rtol=0)


def test_paths_start_at_the_identity_and_are_smooth():
    path = homography_path(16, 0.2, _generator())
    torch.testing.assert_close(path[0], torch.eye(3))
    steps = path.diff(dim=0)
    assert steps.abs().max() > 0.005
    assert (steps.diff(dim=0).abs() < 0.25 * steps.abs().amax()).all()
    assert torch.equal(path, homography_path(16, 0.2, _generator()))


def test_views_differ_and_time_passes_in_each():
    frames = pseudo_4d(_smooth_clip(), 4, _generator(1), strength=0.3)
    assert (frames[0] - frames[3]).abs().mean() > 0.02
    assert (frames[:, 0] - frames[:, 2]).abs().mean(dim=(1, 2, 3)).min() > 0.02


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strength", [0.15, 0.5])
def test_no_border_is_visible(seed, strength):
    """A clip that is dark only outside its outermost pixel centres is never seen dark."""
    clip = torch.ones(1, 3, 20, 30)
    clip[..., 0, :] = clip[..., -1, :] = clip[..., :, 0] = clip[..., :, -1] = 0.5
    frames = pseudo_4d(clip, 6, _generator(seed), strength=strength)
    video = freeze_time_from_image(clip[0], 6, _generator(seed), strength=strength)
    for result in (frames, video):
        assert result.min() >= 0.5 - 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_every_sample_lies_inside_the_clip(seed):
    """Sampling the clip's own coordinates shows where each pixel comes from: none is clamped to the border.

    The zoom is the least possible, so a corner of some view may lie on the border, but no stretch of its edge.
    """
    height, width = 20, 30
    position = pixel_positions(height, width)
    clip = torch.cat([position, torch.zeros(1, height, width)])[None]
    source = pseudo_4d(clip, 5, _generator(seed), strength=0.4)[:, 0]
    for axis, size in ((0, width), (1, height)):
        on_border = (source[:, axis] < 0.5 + 1e-4) | (source[:, axis] > size - 0.5 - 1e-4)
        assert on_border.flatten(1).sum(1).max() <= 1


@pytest.mark.parametrize("seed", range(3))
def test_flow_from_the_fixed_view_is_exact(seed):
    clip = _smooth_clip()
    times, _, height, width = clip.shape
    path = homography_path(4, 0.2, _generator(seed))
    frames = pseudo_4d(clip, 4, path=path)
    flow = homography_flow(path, times, height, width)
    assert flow.flow_from_freeze is None and flow.visible_from_freeze is None
    assert flow.flow_from_fixed.shape == (4, times, 2, height, width)
    assert flow.visible_from_fixed.shape == (4, times, height, width)
    assert flow.flow_from_fixed[0].abs().max() < 1e-3 and flow.visible_from_fixed[0].all()
    given = frames[:1].expand_as(frames)
    warped = warp(given, pixel_positions(height, width) + flow.flow_from_fixed)
    inside = flow.visible_from_fixed[:, :, None].expand_as(frames)
    assert inside.float().mean() > 0.3
    assert (warped - frames)[inside].abs().mean() < 0.003
    assert (given - frames)[inside].abs().mean() > 0.01


def test_a_freeze_time_video_starts_with_the_image_itself():
    image = _smooth_clip()[0]
    video = freeze_time_from_image(image, 5, _generator(3), strength=0.3)
    assert video.shape == (5, *image.shape)
    torch.testing.assert_close(video[0], image, atol=1e-4, rtol=0)
    assert (video[4] - image).abs().mean() > 0.01


def test_a_single_view():
    clip = _smooth_clip()
    torch.testing.assert_close(pseudo_4d(clip, 1, _generator())[0], clip, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: homography_path(0), "views"),
        (lambda: homography_path(2, 1.5), "strength"),
        (lambda: pseudo_4d(torch.zeros(3, 8, 8), 2), "clip"),
        (lambda: pseudo_4d(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 2), "clip"),
        (lambda: pseudo_4d(torch.zeros(2, 3, 8, 8), 2, path=torch.eye(3)[None]), "path"),
        (lambda: freeze_time_from_image(torch.zeros(1, 8, 8), 2), "image"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=f"^{named}: got"):
        call()
