"""SVD and AnimateDiff through the pipelines of diffusers, from an image or a prompt to frames."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to, temporal
from temporal_unets import SIZE, SVD, TEXT, TIMES
from tiny_models import perturb
from video_models import diffusers, relative_error

transformers = pytest.importorskip("transformers", reason="the pipelines need transformers, which is not installed")
Image = pytest.importorskip("PIL.Image", reason="the pipelines need pillow, which is not installed")

ENCODER = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, projection_dim=TEXT)
WORDS = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>"]


def _svd():
    """The UNet gets the latents of the image beside those of the video."""
    vision = transformers.CLIPVisionConfig(image_size=224, patch_size=112, **ENCODER)
    return diffusers.StableVideoDiffusionPipeline(
        vae=diffusers.AutoencoderKLTemporalDecoder(block_out_channels=(32,), latent_channels=4),
        image_encoder=transformers.CLIPVisionModelWithProjection(vision).eval(),
        unet=SVD().build(in_channels=8), scheduler=diffusers.EulerDiscreteScheduler(),
        feature_extractor=transformers.CLIPImageProcessor(),
    )


def _animatediff():
    """The pipeline joins the UNet of an image model and the motion modules."""
    text = transformers.CLIPTextConfig(vocab_size=len(WORDS), max_position_embeddings=6, **ENCODER)
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: index for index, word in enumerate(WORDS)}, merges=[], model_max_length=6
    )
    sizes = dict(block_out_channels=(32, 64))
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIZE, layers_per_block=1, norm_num_groups=8, cross_attention_dim=8, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **sizes,
    )
    adapter = diffusers.MotionAdapter(
        motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=2, motion_max_seq_length=8,
        **sizes,
    )
    return diffusers.AnimateDiffPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4),
        text_encoder=transformers.CLIPTextModel(text).eval(), tokenizer=tokenizer, unet=unet, motion_adapter=adapter,
        scheduler=diffusers.DDIMScheduler(),
    )


INPUTS = {
    _svd: {"image": Image.new("RGB", (24, 16), (200, 100, 50)), "max_guidance_scale": 3.0},
    _animatediff: {"prompt": "a b", "negative_prompt": "b", "guidance_scale": 3.0},
}


@pytest.mark.parametrize("make", INPUTS, ids=["SVD", "AnimateDiff"])
def test_a_pipeline_gives_the_same_frames(make, monkeypatch):
    pipeline = make()
    pipeline.set_progress_bar_config(disable=True)
    perturb(pipeline.unet.parameters(), 0.02)
    axes, attention = [], temporal.axis_attention

    def counted(q, k, v, asked, **rest):
        axes.append(asked)
        return attention(q, k, v, asked, **rest)

    def frames():
        return pipeline(
            **INPUTS[make], height=SIZE, width=SIZE, num_frames=TIMES, num_inference_steps=2, output_type="pt",
            generator=torch.Generator().manual_seed(0),
        ).frames

    monkeypatch.setattr(temporal, "axis_attention", counted)
    expected = frames()
    assert not axes
    apply_to(pipeline.unet, "time")
    assert expected.shape == (1, TIMES, 3, SIZE, SIZE) and expected.std() > 1e-3
    assert relative_error(frames(), expected) <= 1e-4
    assert axes and set(axes) == {"t"}
