"""Pipelines of diffusers call a changed video transformer as they call any other."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to
from transformer_families import FAMILIES, families
from video_models import CHANNELS, HEIGHT, TEXT, TIMES, VIEWS, WIDTH, diffusers, relative_error

pytest.importorskip("transformers", reason="the pipelines need transformers, which is not installed")

TOLERANCE = 1e-4


def _denoise(pipeline, latents, frames, guidance="guidance_scale", pixels=8, temporal=4, **inputs):
    """Two steps with guidance; every prompt has an embedding, so that no encoder is needed."""
    pipeline.set_progress_bar_config(disable=True)
    text = torch.randn(1, 5, TEXT, generator=torch.Generator().manual_seed(1))
    return pipeline(
        prompt_embeds=text, negative_prompt_embeds=-text, height=pixels * HEIGHT, width=pixels * WIDTH,
        num_frames=temporal * (frames - 1) + 1, num_inference_steps=2, output_type="latent", latents=latents,
        **{guidance: 3.0}, **inputs,
    ).frames


def _wan(model, video):
    """``(1, C, F, H, W)`` to the same, as all of these."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipeline = diffusers.WanPipeline(None, None, vae=None, transformer=model, scheduler=scheduler)
    return _denoise(pipeline, video, video.shape[2])


def _ltx(model, video):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipeline = diffusers.LTXPipeline(scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=model)
    masks = {"prompt_attention_mask": torch.ones(1, 5), "negative_prompt_attention_mask": torch.ones(1, 5)}
    tokens = video.permute(0, 2, 3, 4, 1).flatten(1, 3)
    out = _denoise(pipeline, tokens, video.shape[2], pixels=32, temporal=8, **masks)
    return out.unflatten(1, (-1, HEIGHT, WIDTH)).permute(0, 4, 1, 2, 3)


def _cogvideox(model, video):
    scheduler = diffusers.CogVideoXDDIMScheduler()
    pipeline = diffusers.CogVideoXPipeline(None, None, vae=None, transformer=model, scheduler=scheduler)
    return _denoise(pipeline, video.transpose(1, 2), video.shape[2]).transpose(1, 2)


def _hunyuan_video(model, video):
    pipeline = diffusers.HunyuanVideoPipeline(
        None, None, model, vae=None, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), text_encoder_2=None,
        tokenizer_2=None,
    )
    mask, pooled = torch.tensor([[1, 1, 1, 1, 0]]), torch.ones(1, TEXT)
    return _denoise(
        pipeline, video, video.shape[2], guidance="true_cfg_scale", prompt_attention_mask=mask,
        negative_prompt_attention_mask=mask, pooled_prompt_embeds=pooled, negative_pooled_prompt_embeds=-pooled,
    )


RUNS = {
    "Wan": _wan, "LTX": _ltx, "CogVideoX": _cogvideox, "CogVideoX-2B": _cogvideox, "HunyuanVideo": _hunyuan_video,
}


def _changed(family, mode, **options):
    model = family.model()
    apply_to(model, mode, **options)
    return model


@families
def test_a_pipeline_denoises_a_grid(family):
    """The frames of a grid are those of view 0, then those of view 1, ..., as one video."""
    run = next(RUNS[name] for name, listed in FAMILIES.items() if listed is family)
    video = torch.randn(1, CHANNELS, VIEWS * TIMES, HEIGHT, WIDTH)
    plain = run(family.model(), video)
    assert plain.shape == video.shape and relative_error(plain, video) > 1e-2
    assert relative_error(run(_changed(family, "time"), video), plain) <= TOLERANCE
    assert relative_error(run(_changed(family, "fused", views=1), video), plain) <= TOLERANCE
    assert relative_error(run(_changed(family, "fused", views=VIEWS), video), plain) > 1e-3
    each_view = torch.cat([run(family.model(), view) for view in video.split(TIMES, dim=2)], dim=2)
    assert relative_error(each_view, plain) > 1e-3
    streams = _changed(family, "two_stream", views=VIEWS, output="time")
    assert relative_error(run(streams, video), each_view) <= TOLERANCE, "uncoupled streams are the views alone"
