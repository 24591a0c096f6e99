"""Video transformers of diffusers on a grid, against the untouched models."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to, sync_layers
from tiny_models import perturb
from transformer_families import families
from video_models import (
    BATCH,
    CHANNELS,
    HEIGHT,
    LTX,
    TIMES,
    VIEWS,
    WIDTH,
    Wan,
    assert_close,
    conditions,
    gradients,
    grid_latents,
    relative_error,
    repeated,
)

# Blocks of tokens alone; those of text and video are in test_joint_text.py.
video_families = pytest.mark.parametrize("family", [Wan(), LTX()], ids=["Wan", "LTX"])
TOLERANCE = 1e-5


def _long_video(grid):
    """All timesteps of view 0, then those of view 1, ..."""
    return grid.permute(0, 2, 1, 3, 4, 5).flatten(2, 3)


def _as_grid(video):
    return video.unflatten(2, (VIEWS, -1)).permute(0, 2, 1, 3, 4, 5)


def _fixed_view_videos(grid):
    return grid.flatten(0, 1)


def _freeze_time_videos(grid):
    return grid.permute(0, 3, 2, 1, 4, 5).flatten(0, 1)


def _same_view_or_time(views, times, tokens, real_times):
    """bool ``(S, S)`` of query and key; only keys of the first ``real_times`` timesteps."""
    frame = torch.arange(views * times)
    view, time = frame // times, frame % times
    allowed = (view[:, None] == view[None]) | (time[:, None] == time[None])
    allowed = allowed & (time < real_times)[None]
    return allowed.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)


@families
@pytest.mark.parametrize("fused_projections", [False, True])
def test_time_is_the_untouched_model_forward_and_gradients(family, fused_projections):
    """Also with ``fuse_qkv_projections``, which some obey and others ignore."""
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
    assert_close(gradients(model, got), expected_gradients, TOLERANCE)


@families
def test_time_on_a_grid_is_each_view_alone(family):
    model, given, grid = family.model(), conditions(), grid_latents()
    expected = family.video(model, _fixed_view_videos(grid), *repeated(given, VIEWS)).unflatten(0, (BATCH, VIEWS))
    expected_gradients = gradients(model, expected)
    apply_to(model, "time")
    got = family.grid(model, grid, *given)
    assert relative_error(got, expected) <= TOLERANCE
    assert_close(gradients(model, got), expected_gradients, 2 * TOLERANCE)


@families
@pytest.mark.parametrize("max_times", [None, TIMES + 2])
def test_fused_is_a_dense_mask_on_the_flattened_grid(family, max_times):
    """With max_times above T the flattened grid has frames between the views that no key comes from.

    Text in the same softmax sees and is seen by everything else.
    """
    model, given, grid = family.model(), conditions(), grid_latents()
    spacing = max_times or TIMES
    spaced = torch.cat([grid, 9 * torch.randn(BATCH, VIEWS, CHANNELS, spacing - TIMES, HEIGHT, WIDTH)], dim=3)
    allowed = _same_view_or_time(VIEWS, spacing, family.tokens_per_frame(), TIMES)
    with family.dense_mask(allowed):
        expected = _as_grid(family.video(model, _long_video(spaced), *given))[:, :, :, :TIMES]
    dense = _as_grid(family.video(model, _long_video(grid), *given))
    assert relative_error(dense, expected) > 1e-3, "the mask makes no difference"
    expected_gradients = gradients(model, expected)
    apply_to(model, "fused", max_times=max_times)
    got = family.grid(model, grid, *given)
    assert relative_error(got, expected) <= TOLERANCE
    with torch.no_grad():
        assert relative_error(family.grid(model, grid, *given), expected) <= TOLERANCE
    assert_close(gradients(model, got), expected_gradients, 2 * TOLERANCE)


@families
def test_views_one_after_the_other_along_the_frames_are_the_same_grid(family):
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, "fused", views=VIEWS)
    with torch.no_grad():
        expected = family.grid(model, grid, *given)
        assert expected.shape == grid.shape
        assert torch.equal(_as_grid(family.video(model, _long_video(grid), *given)), expected)


@families
@pytest.mark.parametrize("output", ["view", "time", "mean"])
def test_untrained_soft_streams_are_the_model_on_each_line_of_the_grid(family, output):
    model, given, grid = family.model(), conditions(), grid_latents()
    norm = getattr(model, family.last_norm)
    tokens = []
    hook = norm.register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    with torch.no_grad():
        time = family.video(model, _fixed_view_videos(grid), *repeated(given, VIEWS)).unflatten(0, (BATCH, VIEWS))
        view = family.video(model, _freeze_time_videos(grid), *repeated(given, TIMES)).unflatten(0, (BATCH, TIMES))
        view = view.permute(0, 3, 2, 1, 4, 5)
        apply_to(model, "two_stream", output=output)
        got = family.grid(model, grid, *given)
    hook.remove()
    assert relative_error(view, time) > 1e-3
    if output == "mean":
        time_tokens = tokens[0].unflatten(0, (BATCH, VIEWS)).unflatten(2, (TIMES, -1))
        view_tokens = tokens[1].unflatten(0, (BATCH, TIMES)).unflatten(2, (VIEWS, -1)).transpose(1, 2)
        expected = ((time_tokens + view_tokens) / 2).flatten(1, 3)
        assert relative_error(tokens[2], expected) <= TOLERANCE
    else:
        assert relative_error(got, {"view": view, "time": time}[output]) <= TOLERANCE


@video_families
@pytest.mark.parametrize("sync", ["hard", "soft"])
def test_two_streams_are_the_blocks_on_each_stream_then_the_sync_layer(family, sync):
    """Blocks are recomputed on lines of the grid by the untouched model; sync layers are random."""
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, "two_stream", sync=sync)
    layers = sync_layers(model)
    perturb(layers.parameters())
    cond = layers.conditioning(_time_modulation(family, model, given))
    untouched = family.model()
    calls = _block_calls(family, untouched, grid, given)
    with torch.no_grad():
        tokens = []
        hook = getattr(model, family.last_norm).register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
        family.grid(model, grid, *given)
        hook.remove()
        view = time = calls["tokens"]
        for block, layer in zip(family.blocks(untouched), layers.layers, strict=True):
            view, time = layer(calls["view"](block, view), calls["time"](block, time), cond)
    assert relative_error(tokens[0].unflatten(1, (VIEWS, TIMES, -1)), (view + time) / 2) <= TOLERANCE


@video_families
def test_sequential_is_every_block_on_views_then_on_timesteps(family):
    model, given, grid = family.model(), conditions(), grid_latents()
    calls = _block_calls(family, family.model(), grid, given)
    untouched = family.model()
    apply_to(model, "sequential")
    tokens = []
    getattr(model, family.last_norm).register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    with torch.no_grad():
        family.grid(model, grid, *given)
        expected = calls["tokens"]
        for block in family.blocks(untouched):
            expected = calls["time"](block, calls["view"](block, expected))
    assert relative_error(tokens[0].unflatten(1, (VIEWS, TIMES, -1)), expected) <= TOLERANCE


def _time_modulation(family, model, given):
    """What the first block gets as ``temb``, flattened to ``(B, 6 C)``."""
    seen = []
    hook = family.blocks(model)[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("temb", args[2] if len(args) > 2 else None)),
        with_kwargs=True,
    )
    with torch.no_grad():
        family.grid(model, grid_latents(), *given)
    hook.remove()
    return seen[0].reshape(BATCH, -1)


@torch.no_grad()
def _block_calls(family, model, grid, given):
    """Run a block of an untouched model on the lines of a grid of tokens, by the arguments it gets for such videos."""
    calls = {}
    for name, videos, count in (
        ("time", _fixed_view_videos(grid), VIEWS),
        ("view", _freeze_time_videos(grid), TIMES),
    ):
        seen = []
        hook = family.blocks(model)[0].register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append((args, kwargs)), with_kwargs=True
        )
        family.video(model, videos, *repeated(given, count))
        hook.remove()
        args, kwargs = seen[0]
        first = args[0] if args else kwargs["hidden_states"]

        def call(block, tokens, name=name, args=args, kwargs=kwargs):
            lines = tokens if name == "time" else tokens.transpose(1, 2)
            flat = lines.flatten(0, 1).flatten(1, 2)
            out = block(flat, *args[1:]) if args else block(**{**kwargs, "hidden_states": flat})
            out = out.unflatten(1, lines.shape[2:4]).unflatten(0, lines.shape[:2])
            return out if name == "time" else out.transpose(1, 2)

        calls[name] = call
        if name == "time":
            calls["tokens"] = first.unflatten(0, (BATCH, VIEWS)).unflatten(2, (TIMES, -1))
    return calls
