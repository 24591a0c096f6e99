"""Tiny random video transformers whose text and video tokens attend to one another."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

from video_models import CHANNELS, HEIGHT, TEXT, WIDTH, Family, diffusers


class Joint(Family):
    """Videos are ``(B, C, F, H, W)``, grids ``(B, V, C, T, H, W)``."""

    last_norm = "norm_out"

    def tokens_per_frame(self) -> int:
        return HEIGHT * WIDTH // 4

    @contextmanager
    def dense_mask(self, allowed: Tensor):
        """Joint attention with as many video tokens as ``allowed (S, S)`` has; text is seen by everything.

        It sees everything that some video token sees.
        """
        attention = torch.nn.functional.scaled_dot_product_attention

        def masked(query, key, value, attn_mask=None, **others):
            text = key.shape[2] - len(allowed)
            if text > 0:
                attn_mask = _and_text(allowed, text, self.text_first, attn_mask)
            return attention(query, key, value, attn_mask=attn_mask, **others)

        with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", masked):
            yield


def _and_text(allowed: Tensor, text: int, first: bool, given: Tensor | None) -> Tensor:
    joint = torch.ones(len(allowed) + text, len(allowed) + text, dtype=torch.bool)
    video = slice(text, None) if first else slice(0, len(allowed))
    joint[:, video] = allowed.any(0)
    joint[video, video] = allowed
    return joint if given is None else joint & given


class CogVideoX(Joint):
    text_first = True
    last_norm = "norm_final"

    def build(self, **changes) -> nn.Module:
        return diffusers.CogVideoXTransformer3DModel(
            **dict(
                num_attention_heads=2, attention_head_dim=16, in_channels=CHANNELS, out_channels=CHANNELS,
                time_embed_dim=10, text_embed_dim=TEXT, num_layers=2, sample_width=WIDTH, sample_height=HEIGHT,
                max_text_seq_length=5, use_rotary_positional_embeddings=True,
            ) | changes
        )

    def video(self, model: nn.Module, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        frames, rotary = latents.transpose(1, 2), self.rotary(latents.shape[2])
        return model(frames, text, timestep, image_rotary_emb=rotary, return_dict=False)[0].transpose(1, 2)

    def grid(self, model: nn.Module, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return model(latents, text, timestep, image_rotary_emb=self.rotary(32), return_dict=False)[0]

    def rotary(self, frames: int) -> tuple[Tensor, Tensor]:
        """As the pipeline makes it."""
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        size = (HEIGHT // 2, WIDTH // 2)
        return get_3d_rotary_pos_embed(16, ((0, 0), size), size, frames)

    def blocks(self, model: nn.Module) -> nn.ModuleList:
        return model.transformer_blocks


class CogVideoX2B(CogVideoX):
    """Positions are added to the tokens: sin and cos, which the model keeps for videos of 4 frames."""

    def build(self, **changes) -> nn.Module:
        return super().build(**dict(use_rotary_positional_embeddings=False, sample_frames=13) | changes)

    def rotary(self, frames: int) -> None:
        return None


class HunyuanVideo(Joint):
    """The last of the five text tokens is masked."""

    text_first = False

    def build(self, **changes) -> nn.Module:
        return diffusers.HunyuanVideoTransformer3DModel(
            **dict(
                in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=2, attention_head_dim=12,
                num_layers=1, num_single_layers=1, num_refiner_layers=1, mlp_ratio=2.0, guidance_embeds=False,
                text_embed_dim=TEXT, pooled_projection_dim=TEXT, rope_axes_dim=(4, 4, 4),
            ) | changes
        )

    def video(self, model: nn.Module, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        mask = torch.ones(text.shape[:2])
        mask[:, -1] = 0
        return model(latents, timestep, text, mask, text[:, 0], return_dict=False)[0]

    grid = video

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        return [*model.transformer_blocks, *model.single_transformer_blocks]
