"""Variants of the models: patches over time, a diffusion time per token, images as a second context or first frame."""

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
    LTX,
    TEXT,
    TIMES,
    VIEWS,
    WIDTH,
    Wan,
    assert_close,
    conditions,
    diffusers,
    gradients,
    grid_latents,
    relative_error,
    repeated,
)


def _changed(family, **changes):
    torch.manual_seed(0)
    model = family.build()
    config = {name: value for name, value in model.config.items() if not name.startswith("_")} | changes
    model = type(model)(**config).eval()
    perturb(model.parameters(), 0.1)
    return model


@pytest.mark.parametrize("mode", ["time", "two_stream"])
def test_wan_with_patches_over_time(mode):
    """An untrained time stream is the model on each view, whose patches do not reach into the next view."""
    model, given, grid = _changed(Wan(), patch_size=(2, 2, 2)), conditions(), grid_latents()
    with torch.no_grad():
        expected = model(grid.flatten(0, 1), *repeated(given, VIEWS)).sample.unflatten(0, (BATCH, VIEWS))
        apply_to(model, mode, output="time")
        assert relative_error(model(grid, *given).sample, expected) <= 1e-5
        with pytest.raises(ValueError, match="^hidden_states: got 3 timesteps, expected a multiple of .* patch size 2"):
            model(grid[:, :, :, :3], *given)


@pytest.mark.parametrize("mode", ["time", "two_stream"])
def test_wan_with_a_diffusion_time_per_token(mode):
    model, (_, text), grid = _changed(Wan()), conditions(), grid_latents()
    steps = torch.randint(1, 999, (BATCH, VIEWS, TIMES * Wan().tokens_per_frame())).float()
    with torch.no_grad():
        expected = model(grid.flatten(0, 1), steps.flatten(0, 1), text.repeat_interleave(VIEWS, 0)).sample
        apply_to(model, mode, output="time")
        got = model(grid, steps.flatten(1), text).sample
        assert relative_error(got, expected.unflatten(0, (BATCH, VIEWS))) <= 1e-5
        if mode == "two_stream":
            perturb(sync_layers(model).parameters())
            assert relative_error(model(grid, steps.flatten(1), text).sample, got) > 1e-3


def test_wan_with_images_as_context():
    model = _changed(Wan(), image_dim=6, added_kv_proj_dim=24)
    video, steps = torch.randn(BATCH, CHANNELS, TIMES, HEIGHT, WIDTH), torch.tensor([10.0, 900.0])
    inputs = (video, steps, torch.randn(BATCH, 512, TEXT), torch.randn(BATCH, 3, 6))
    with torch.no_grad():
        expected = model(*inputs).sample
        apply_to(model, "time")
        assert relative_error(model(*inputs).sample, expected) <= 1e-5


def test_ltx_packs_patches_as_its_pipeline_does():
    pytest.importorskip("transformers", reason="the pipelines need transformers, which is not installed")
    pack, unpack = diffusers.LTXPipeline._pack_latents, diffusers.LTXPipeline._unpack_latents
    model = _changed(LTX(), patch_size=2, patch_size_t=2, in_channels=8 * CHANNELS, out_channels=8 * CHANNELS)
    (steps, text), grid = conditions(), grid_latents()
    sizes = dict(num_frames=TIMES // 2, height=HEIGHT // 2, width=WIDTH // 2)
    with torch.no_grad():
        tokens = pack(grid.flatten(0, 1), 2, 2)
        out = model(tokens, text.repeat_interleave(VIEWS, 0), steps.repeat_interleave(VIEWS), None, **sizes).sample
        expected = unpack(out, *sizes.values(), 2, 2).unflatten(0, (BATCH, VIEWS))
        apply_to(model, "time")
        assert relative_error(model(grid, text, steps, None).sample, expected) <= 1e-5
        with pytest.raises(ValueError, match="^hidden_states: got T=3, expected a multiple of the patch size 2"):
            model(grid[:, :, :, :3], text, steps, None)


def test_ltx_with_coordinates_of_tokens_is_refused():
    model, (steps, text) = LTX().model(), conditions()
    apply_to(model, "time")
    coordinates = torch.zeros(BATCH, 3, TIMES * HEIGHT * WIDTH)
    with pytest.raises(NotImplementedError, match="^video_coords: got coordinates"):
        model(grid_latents()[:, :1], text, steps, None, video_coords=coordinates)


@pytest.mark.parametrize("mode", ["time", "two_stream"])
def test_cogvideox_with_patches_over_time(mode):
    """CogVideoX 1.5: the rotary embedding has a row for each token of a frame after patches."""
    model, (steps, text), grid = _changed(CogVideoX(), patch_size_t=2), conditions(), grid_latents()
    with torch.no_grad():
        expected = model(
            grid.flatten(0, 1).transpose(1, 2), text.repeat_interleave(VIEWS, 0), steps.repeat_interleave(VIEWS, 0),
            image_rotary_emb=CogVideoX().rotary(TIMES // 2),
        ).sample
        apply_to(model, mode, output="time")
        got = model(grid, text, steps, image_rotary_emb=CogVideoX().rotary(VIEWS * TIMES // 2)).sample
        assert relative_error(got, expected.transpose(1, 2).unflatten(0, (BATCH, VIEWS))) <= 1e-5


@pytest.mark.parametrize("mode", ["time", "two_stream"])
def test_cogvideox_with_learned_positions(mode):
    """CogVideoX-5B image to video: learned positions, also of text, for videos of one size, beside rotary ones."""
    family, given, grid = CogVideoX(), conditions(), grid_latents()
    model = _changed(family, use_learned_positional_embeddings=True, sample_frames=4 * TIMES - 3)
    model.patch_embed.pos_embedding.normal_()
    with torch.no_grad():
        plain = family.video(family.model(), grid.flatten(0, 1), *repeated(given, VIEWS))
        expected = family.video(model, grid.flatten(0, 1), *repeated(given, VIEWS))
        assert relative_error(expected, plain) > 1e-2
        apply_to(model, mode, output="time")
        assert relative_error(family.grid(model, grid, *given), expected.unflatten(0, (BATCH, VIEWS))) <= 1e-5
        with pytest.raises(ValueError, match="^hidden_states: got latents of 4 x 8, expected 4 x 6 .*learned"):
            model(torch.nn.functional.pad(grid, (0, 2)), given[1], given[0], image_rotary_emb=family.rotary(32))


def _token_replace():
    return _changed(HunyuanVideo(), image_condition_type="token_replace", guidance_embeds=True)


def _call(model, latents, count):
    """Every sample has its own diffusion time, text and guidance."""
    texts = torch.linspace(-1, 1, BATCH * 5 * TEXT).view(BATCH, 5, TEXT)
    steps, text = repeated((torch.tensor([100.0, 700.0]), texts), count)
    guidance = torch.tensor([1000.0, 6000.0]).repeat_interleave(count)
    return model(latents, steps, text, torch.ones(text.shape[:2]), text[:, 0], guidance, return_dict=False)[0]


def test_hunyuan_video_with_a_given_first_frame():
    """Forward and gradients of a video are the untouched model's; each view of a grid has a first frame of its own."""
    model, grid = _token_replace(), grid_latents()
    expected = _call(model, grid.flatten(0, 1), VIEWS).unflatten(0, (BATCH, VIEWS))
    expected_gradients = gradients(model, expected)
    apply_to(model, "time")
    got = _call(model, grid, 1)
    assert relative_error(got, expected) <= 1e-5
    assert_close(gradients(model, got), expected_gradients, 2e-5)
    with torch.no_grad():
        assert relative_error(_call(model, grid[:, 0], 1), expected[:, 0]) <= 1e-5
        remove_from(model)
        apply_to(model, "time", views=VIEWS)
        long = _call(model, grid.transpose(1, 2).flatten(2, 3), 1)
        assert relative_error(long.unflatten(2, (VIEWS, -1)).transpose(1, 2), expected) <= 1e-5


@pytest.mark.parametrize("mode", ["sequential", "fused", "two_stream"])
def test_hunyuan_video_with_a_given_first_frame_refuses_the_other_modes(mode):
    with pytest.raises(NotImplementedError, match=f"^mode: got '{mode}'.*'token_replace' supports 'time' alone.*first"):
        apply_to(_token_replace(), mode)
