"""Models whose text and video tokens share one softmax, on a grid, against the untouched models."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to
from joint_models import TOLERANCE, assert_close, gradients
from transformer_families import joint_families
from video_models import (
    BATCH,
    CHANNELS,
    HEIGHT,
    TIMES,
    VIEWS,
    WIDTH,
    conditions,
    grid_latents,
    relative_error,
    repeated,
)


def _long_video(grid):
    """All timesteps of view 0, then those of view 1, ..."""
    return grid.permute(0, 2, 1, 3, 4, 5).flatten(2, 3)


def _as_grid(video):
    return video.unflatten(2, (VIEWS, -1)).permute(0, 2, 1, 3, 4, 5)


def _rows(grid):
    return grid.flatten(0, 1)


def _columns(grid):
    return grid.permute(0, 3, 2, 1, 4, 5).flatten(0, 1)


def _from_columns(videos):
    return videos.unflatten(0, (BATCH, TIMES)).permute(0, 3, 2, 1, 4, 5)


@joint_families
@pytest.mark.parametrize("fused_projections", [False, True])
def test_time_is_the_untouched_model_forward_and_gradients(family, fused_projections):
    model, given = family.model(), conditions()
    if fused_projections:
        model.fuse_qkv_projections()
    video = torch.randn(BATCH, CHANNELS, TIMES, HEIGHT, WIDTH)
    expected = family.video(model, video, *given)
    expected_gradients = gradients(model, expected)
    apply_to(model, "time")
    got = family.video(model, video, *given)
    assert relative_error(got, expected) <= TOLERANCE
    with torch.no_grad():
        assert relative_error(family.video(model, video, *given), expected) <= TOLERANCE
    assert_close(gradients(model, got), expected_gradients)


@joint_families
def test_time_on_a_grid_is_each_view_alone(family):
    model, given, grid = family.model(), conditions(), grid_latents()
    expected = family.video(model, _rows(grid), *repeated(given, VIEWS)).unflatten(0, (BATCH, VIEWS))
    expected_gradients = gradients(model, expected)
    apply_to(model, "time")
    got = family.grid(model, grid, *given)
    assert relative_error(got, expected) <= TOLERANCE
    assert_close(gradients(model, got), expected_gradients)


@joint_families
@pytest.mark.parametrize("max_times", [None, TIMES + 2])
def test_fused_is_a_dense_mask_on_the_flattened_grid(family, max_times):
    """Text sees and is seen by everything, but for frames between the views, which no key comes from."""
    model, given, grid = family.model(), conditions(), grid_latents()
    spacing = max_times or TIMES
    spaced = torch.cat([grid, 9 * torch.randn(BATCH, VIEWS, CHANNELS, spacing - TIMES, HEIGHT, WIDTH)], dim=3)
    with family.dense_mask(_same_view_or_time(spacing, family.tokens_per_frame())):
        expected = _as_grid(family.video(model, _long_video(spaced), *given))[:, :, :, :TIMES]
    dense = _as_grid(family.video(model, _long_video(grid), *given))
    assert relative_error(dense, expected) > 1e-3, "the mask makes no difference"
    expected_gradients = gradients(model, expected)
    apply_to(model, "fused", max_times=max_times)
    got = family.grid(model, grid, *given)
    assert relative_error(got, expected) <= TOLERANCE
    with torch.no_grad():
        assert relative_error(family.grid(model, grid, *given), expected) <= TOLERANCE
    assert_close(gradients(model, got), expected_gradients)


def _same_view_or_time(spacing, tokens):
    """bool ``(S, S)`` of query and key; only keys of the first T of ``spacing`` timesteps."""
    frame = torch.arange(VIEWS * spacing).repeat_interleave(tokens)
    view, time = frame // spacing, frame % spacing
    return ((view[:, None] == view) | (time[:, None] == time)) & (time < TIMES)


@joint_families
@pytest.mark.parametrize("output", ["view", "time", "mean"])
def test_untrained_soft_streams_are_the_model_on_each_line_of_the_grid(family, output):
    model, given, grid = family.model(), conditions(), grid_latents()
    tokens = []
    hook = getattr(model, family.last_norm).register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    with torch.no_grad():
        time = family.video(model, _rows(grid), *repeated(given, VIEWS)).unflatten(0, (BATCH, VIEWS))
        view = _from_columns(family.video(model, _columns(grid), *repeated(given, TIMES)))
        apply_to(model, "two_stream", output=output)
        got = family.grid(model, grid, *given)
    hook.remove()
    assert relative_error(view, time) > 1e-3
    if output != "mean":
        assert relative_error(got, {"view": view, "time": time}[output]) <= TOLERANCE
        return
    time_tokens = tokens[0].unflatten(0, (BATCH, VIEWS)).unflatten(2, (TIMES, -1))
    view_tokens = tokens[1].unflatten(0, (BATCH, TIMES)).unflatten(2, (VIEWS, -1)).transpose(1, 2)
    assert relative_error(tokens[2], ((time_tokens + view_tokens) / 2).flatten(1, 3)) <= TOLERANCE


@joint_families
def test_sequential_is_every_block_on_views_then_on_timesteps(family):
    """Each line keeps its copy of the text; blocks of an untouched model get the arguments of the videos of a line.

    Tokens start as in one long video, which matters where positions are added to them.
    """
    model, given, grid = family.model(), conditions(), grid_latents()
    untouched, tokens = family.model(), []
    time = _first_block_call(family, grid, given, _rows, VIEWS)
    view = _first_block_call(family, grid, given, _columns, TIMES)
    start = _first_block_call(family, grid, given, _long_video, 1)["video"]
    apply_to(model, "sequential")
    getattr(model, family.last_norm).register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    with torch.no_grad():
        family.grid(model, grid, *given)
        video = start.unflatten(1, (VIEWS, TIMES, -1))
        for block in family.blocks(untouched):
            lines = video.transpose(1, 2).flatten(2, 3).flatten(0, 1)
            lines, view["text"] = block(lines, view["text"], *view["others"])
            video = lines.unflatten(1, (VIEWS, -1)).unflatten(0, (BATCH, TIMES)).transpose(1, 2)
            lines, time["text"] = block(video.flatten(2, 3).flatten(0, 1), time["text"], *time["others"])
            video = lines.unflatten(1, (TIMES, -1)).unflatten(0, (BATCH, VIEWS))
    assert relative_error(tokens[0], video.flatten(1, 3)) <= TOLERANCE


def _first_block_call(family, grid, given, lines, count):
    """What the first block of an untouched model gets for videos that are lines of the grid."""
    model, seen = family.model(), []
    family.blocks(model)[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend((*args, *kwargs.values())), with_kwargs=True
    )
    with torch.no_grad():
        family.video(model, lines(grid), *repeated(given, count))
    return {"video": seen[0], "text": seen[1], "others": seen[2:]}
