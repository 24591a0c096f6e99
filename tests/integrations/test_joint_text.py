"""Models whose text and video tokens share one softmax, on a grid, against the untouched models."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to, remove_from, sync_layers
from joint_models import CogVideoX, HunyuanVideo
from tiny_models import perturb
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

families = pytest.mark.parametrize("family", [CogVideoX(), HunyuanVideo()], ids=["CogVideoX", "HunyuanVideo"])
modes = pytest.mark.parametrize("mode", ["time", "sequential", "fused", "two_stream"])
TOLERANCE = 1e-5


def _gradients(model, out):
    model.zero_grad(set_to_none=True)
    out.square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def _assert_close(got, expected):
    for name, gradient in got.items():
        if expected[name] is None or not expected[name].any():
            assert gradient is None or gradient.abs().max() <= 1e-7, name
        else:
            assert relative_error(gradient, expected[name]) <= 2 * TOLERANCE, name


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


@families
@pytest.mark.parametrize("fused_projections", [False, True])
def test_time_is_the_untouched_model_forward_and_gradients(family, fused_projections):
    model, given = family.model(), conditions()
    if fused_projections:
        model.fuse_qkv_projections()
    video = torch.randn(BATCH, CHANNELS, TIMES, HEIGHT, WIDTH)
    expected = family.video(model, video, *given)
    expected_gradients = _gradients(model, expected)
    apply_to(model, "time")
    got = family.video(model, video, *given)
    assert relative_error(got, expected) <= TOLERANCE
    with torch.no_grad():
        assert relative_error(family.video(model, video, *given), expected) <= TOLERANCE
    _assert_close(_gradients(model, got), expected_gradients)


@families
def test_time_on_a_grid_is_each_view_alone(family):
    model, given, grid = family.model(), conditions(), grid_latents()
    expected = family.video(model, _rows(grid), *repeated(given, VIEWS)).unflatten(0, (BATCH, VIEWS))
    expected_gradients = _gradients(model, expected)
    apply_to(model, "time")
    got = family.grid(model, grid, *given)
    assert relative_error(got, expected) <= TOLERANCE
    _assert_close(_gradients(model, got), expected_gradients)


@families
@pytest.mark.parametrize("max_times", [None, TIMES + 2])
def test_fused_is_a_dense_mask_on_the_flattened_grid(family, max_times):
    """With max_times above T, tokens of the frames between the views are attended to by the text of the dense model."""
    model, given, grid = family.model(), conditions(), grid_latents()
    if max_times is None:
        frame = torch.arange(VIEWS * TIMES)
        allowed = (frame[:, None] // TIMES == frame // TIMES) | (frame[:, None] % TIMES == frame % TIMES)
        allowed = allowed.repeat_interleave(family.tokens_per_frame(), 0)
        with family.dense_mask(allowed.repeat_interleave(family.tokens_per_frame(), 1)):
            expected = _as_grid(family.video(model, _long_video(grid), *given))
        dense = _as_grid(family.video(model, _long_video(grid), *given))
        assert relative_error(dense, expected) > 1e-3, "the mask makes no difference"
        expected_gradients = _gradients(model, expected)
        apply_to(model, "fused")
        got = family.grid(model, grid, *given)
        with torch.no_grad():
            assert relative_error(family.grid(model, grid, *given), expected) <= TOLERANCE
        assert relative_error(got, expected) <= TOLERANCE
        _assert_close(_gradients(model, got), expected_gradients)


@families
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


@families
def test_only_sync_layers_train_and_every_one_gets_a_gradient(family):
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, "two_stream")
    perturb(sync_layers(model).parameters())
    out = family.grid(model, grid, *given)
    for name, gradient in _gradients(model, out).items():
        assert (gradient is not None) == name.startswith("grid_sync."), name
        assert gradient is None or gradient.abs().max() > 0, name
    with torch.no_grad():
        assert relative_error(family.grid(model, grid, *given), out) <= TOLERANCE


@families
@modes
def test_remove_restores_the_model_and_its_weights_keep_their_names(family, mode):
    model, given = family.model(), conditions()
    video, weights = torch.randn(BATCH, CHANNELS, TIMES, HEIGHT, WIDTH), list(model.state_dict())
    processors = dict(model.attn_processors)
    with torch.no_grad():
        expected = family.video(model, video, *given)
        apply_to(model, mode)
        assert list(model.state_dict()) == weights
        assert family.grid(model, grid_latents(), *given).shape == grid_latents().shape
        remove_from(model)
        assert torch.equal(family.video(model, video, *given), expected)
    assert list(model.state_dict()) == weights and model.attn_processors == processors
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in model.modules())
