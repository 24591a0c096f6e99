"""Pipelines of diffusers call the changed model as they call any other."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to
from video_models import CHANNELS, HEIGHT, LTX, TEXT, TIMES, VIEWS, WIDTH, Wan, diffusers

pytest.importorskip("transformers", reason="the pipelines need transformers, which is not installed")

FRAMES = VIEWS * TIMES


def _run(pipeline, latents, **inputs):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt_embeds=torch.randn(1, 5, TEXT, generator=torch.Generator().manual_seed(1)),
        negative_prompt_embeds=torch.zeros(1, 5, TEXT), num_frames=8 * (FRAMES - 1) + 1, num_inference_steps=2,
        guidance_scale=3.0, output_type="latent", latents=latents, **inputs,
    ).frames


def _wan(model):
    pipeline = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=model,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    latents = torch.randn(1, CHANNELS, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    return _run(pipeline, latents, height=8 * HEIGHT, width=8 * WIDTH)


def _ltx(model):
    pipeline = diffusers.LTXPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=model,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )
    latents = torch.randn(1, FRAMES * HEIGHT * WIDTH, CHANNELS, generator=torch.Generator().manual_seed(0))
    masks = {"prompt_attention_mask": torch.ones(1, 5), "negative_prompt_attention_mask": torch.ones(1, 5)}
    return _run(pipeline, latents, height=32 * HEIGHT, width=32 * WIDTH, **masks)


@pytest.mark.parametrize("family, run", [(Wan(), _wan), (LTX(), _ltx)], ids=["Wan", "LTX"])
def test_a_pipeline_denoises_a_grid(family, run):
    """With one view, or in mode "time", the pipeline's result is its own; with three views it is another."""
    plain = run(family.model())
    model = family.model()
    apply_to(model, "time")
    torch.testing.assert_close(run(model), plain, rtol=1e-4, atol=1e-5)
    model = family.model()
    apply_to(model, "fused", views=1)
    torch.testing.assert_close(run(model), plain, rtol=1e-4, atol=1e-5)
    model = family.model()
    apply_to(model, "fused", views=VIEWS)
    grid = run(model)
    assert grid.shape == plain.shape and (grid - plain).abs().max() > 1e-3
