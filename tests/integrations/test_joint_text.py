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
    """Gradients of less than 1e-7 of the largest are rounding: a bias of all keys, for one, changes no softmax."""
    noise = 1e-7 * max(gradient.abs().max() for gradient in expected.values() if gradient is not None)
    for name, gradient in got.items():
        if expected[name] is None or expected[name].abs().max() <= noise:
            assert gradient is None or gradient.abs().max() <= noise, name
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
def test_fused_is_a_dense_mask_on_the_flattened_grid(family):
    """Text sees and is seen by everything."""
    model, given, grid = family.model(), conditions(), grid_latents()
    with family.dense_mask(_same_view_or_time(family.tokens_per_frame())):
        expected = _as_grid(family.video(model, _long_video(grid), *given))
    dense = _as_grid(family.video(model, _long_video(grid), *given))
    assert relative_error(dense, expected) > 1e-3, "the mask makes no difference"
    expected_gradients = _gradients(model, expected)
    apply_to(model, "fused")
    got = family.grid(model, grid, *given)
    assert relative_error(got, expected) <= TOLERANCE
    with torch.no_grad():
        assert relative_error(family.grid(model, grid, *given), expected) <= TOLERANCE
    _assert_close(_gradients(model, got), expected_gradients)


def _same_view_or_time(tokens):
    """bool ``(S, S)`` of query and key."""
    frame = torch.arange(VIEWS * TIMES).repeat_interleave(tokens)
    view, time = frame // TIMES, frame % TIMES
    return (view[:, None] == view) | (time[:, None] == time)


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


@pytest.mark.parametrize(
    "family, changes, message",
    [
        (CogVideoX(), {"use_rotary_positional_embeddings": False}, "use_rotary_positional_embeddings=True"),
        (HunyuanVideo(), {"image_condition_type": "token_replace"}, "'latent_concat'"),
    ],
)
def test_variants_that_are_refused(family, changes, message):
    with pytest.raises(NotImplementedError, match=f"^model: got .*{message}"):
        apply_to(family.build(**changes))


@pytest.mark.parametrize("rows", [None, VIEWS * TIMES - 1])
def test_rotary_positions_for_too_few_frames(rows):
    model, (steps, text), family = CogVideoX().model(), conditions(), CogVideoX()
    apply_to(model, "fused")
    with pytest.raises(ValueError, match="^image_rotary_emb: got .*at least 12 frames of 6 tokens.*V \\* T"):
        model(grid_latents(), text, steps, image_rotary_emb=rows and family.rotary(rows))


@pytest.mark.parametrize("mask", [[[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], [[0, 1, 1, 1, 1]] * 2, [[0] * 5] * 2])
def test_masks_that_are_no_common_length(mask):
    model, (steps, text) = HunyuanVideo().model(), conditions()
    apply_to(model, "time")
    with pytest.raises(ValueError, match="^encoder_attention_mask: got .*one at a time"):
        model(grid_latents(), steps, text, torch.tensor(mask), text[:, 0])
