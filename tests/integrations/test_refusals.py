"""Models, modes and latents that cannot be taken: the message says what can, and the model stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fourreal_kernels.integrations.diffusers import apply_to, remove_from, save_sync, sync_layers
from joint_models import CogVideoX, CogVideoX2B, HunyuanVideo
from transformer_families import families
from video_models import CHANNELS, LTX, TIMES, VIEWS, Wan, conditions, grid_latents

GRID = r"latents \(B, V, C, T, H, W\), or apply_to\(model, mode, views=V\)"


@pytest.mark.parametrize("mode", ["sequential", "fused", "two_stream"])
@families
def test_a_video_without_a_number_of_views(family, mode):
    model = family.model()
    apply_to(model, mode)
    with pytest.raises(ValueError, match=f"^hidden_states: got shape .*{mode}.*{GRID}"):
        family.video(model, grid_latents()[:, 0], *conditions())


@families
def test_frames_that_are_no_multiple_of_the_views(family):
    model = family.model()
    apply_to(model, "fused", views=VIEWS)
    with pytest.raises(ValueError, match=f"^hidden_states: got {TIMES} frames .* multiple of views={VIEWS}.*{GRID}"):
        family.video(model, grid_latents()[:, 0], *conditions())


@families
def test_a_grid_of_other_views_or_other_rank(family):
    model = family.model()
    apply_to(model, "fused", views=VIEWS + 1)
    with pytest.raises(ValueError, match=f"^hidden_states: got {VIEWS} views .*views={VIEWS + 1}.*{GRID}"):
        family.grid(model, grid_latents(), *conditions())
    with pytest.raises(ValueError, match=f"^hidden_states: got 7 dims.*{GRID}"):
        family.grid(model, grid_latents()[None], *conditions())


@families
def test_max_times_below_the_timesteps(family):
    model = family.model()
    apply_to(model, "fused", max_times=TIMES - 1)
    with pytest.raises(ValueError, match=f"^max_times: got {TIMES - 1}, expected at least the {TIMES} "):
        family.grid(model, grid_latents(), *conditions())


def test_more_positions_than_the_rotary_embedding_has():
    model = Wan().model()
    apply_to(model, "fused", max_times=30)
    with pytest.raises(ValueError, match="^hidden_states: got a grid of 90 positions.*64.*rope_max_seq_len"):
        Wan().grid(model, grid_latents(), *conditions())


def test_packed_tokens_without_a_number_of_frames():
    model = LTX().model()
    apply_to(model, "time")
    timestep, text = conditions()
    with pytest.raises(ValueError, match="^num_frames: got None.*expected the number of frames"):
        model(torch.randn(2, 24, CHANNELS), text, timestep, None, num_frames=None, height=4, width=6)


@pytest.mark.parametrize("rows", [None, VIEWS * TIMES - 1])
def test_rotary_positions_for_too_few_frames(rows):
    model, (steps, text), family = CogVideoX().model(), conditions(), CogVideoX()
    apply_to(model, "fused")
    with pytest.raises(ValueError, match="^image_rotary_emb: got .*at least 12 frames of 6 tokens.*V \\* T"):
        model(grid_latents(), text, steps, image_rotary_emb=rows and family.rotary(rows))


def test_a_text_that_is_not_padded_to_the_positions_of_the_model():
    model, (steps, text) = CogVideoX2B().model(), conditions()
    apply_to(model, "time")
    with pytest.raises(ValueError, match="^encoder_hidden_states: got 4 text tokens, expected the 5 .*pad the text"):
        model(grid_latents(), text[:, :4], steps)


@pytest.mark.parametrize("mask", [[[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], [[0, 1, 1, 1, 1]] * 2, [[0] * 5] * 2])
def test_masks_that_are_no_common_length(mask):
    model, (steps, text) = HunyuanVideo().model(), conditions()
    apply_to(model, "time")
    with pytest.raises(ValueError, match="^encoder_attention_mask: got .*one at a time"):
        model(grid_latents(), steps, text, torch.tensor(mask), text[:, 0])


class _Other(nn.Module):
    """Named as a supported class, but not of diffusers."""


_Other.__name__ = "WanTransformer3DModel"


@pytest.mark.parametrize("model", [nn.Linear(2, 2), _Other()], ids=["no video model", "not of diffusers"])
def test_an_unsupported_model(model):
    with pytest.raises(NotImplementedError, match="^model: got .*expected one of WanTransformer3DModel, .*drop-in.md"):
        apply_to(model)


def test_a_compiled_model():
    with pytest.raises(NotImplementedError, match="^model: got OptimizedModule.*before torch.compile"):
        apply_to(torch.compile(Wan().model(), backend="eager"))


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"mode": "both"}, ValueError, "^mode: got 'both', expected one of 'time'"),
        ({"mode": "two_stream", "sync": "firm"}, ValueError, "^sync: got 'firm', expected one of 'soft'"),
        ({"mode": "two_stream", "output": "sum"}, ValueError, "^output: got 'sum'"),
        ({"views": 0}, ValueError, "^views: got 0, expected at least 1"),
        ({"views": 2.0}, TypeError, "^views: got float, expected an int"),
        ({"backend": "fast"}, ValueError, "^backend: got 'fast'"),
    ],
)
def test_bad_options_change_nothing(options, error, message):
    model = Wan().model()
    with pytest.raises(error, match=message):
        apply_to(model, **options)
    apply_to(model)


def test_applying_twice_and_removing_nothing():
    model = Wan().model()
    with pytest.raises(ValueError, match=r"^model: nothing is applied.*apply_to\(model, mode\)"):
        remove_from(model)
    apply_to(model, "fused")
    with pytest.raises(ValueError, match=r"^model: mode 'fused' is applied.*remove_from\(model\)"):
        apply_to(model, "time")


@pytest.mark.parametrize("call", [sync_layers, lambda model: save_sync(model, "unused")])
def test_sync_layers_of_a_model_without(call):
    model = Wan().model()
    apply_to(model, "fused")
    with pytest.raises(ValueError, match=r'^model: .*without synchronisation layers.*apply_to\(model, "two_stream"\)'):
        call(model)
