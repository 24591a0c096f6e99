"""Tiny random video transformers of diffusers, and how each is run on plain videos and on grids."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from tiny_models import perturb

diffusers = pytest.importorskip("diffusers", reason="the extra fourreal-kernels[diffusers] is not installed")

BATCH, VIEWS, TIMES, CHANNELS, HEIGHT, WIDTH, TEXT = 2, 3, 4, 4, 4, 6, 8


class Family:
    """One model class. Videos are ``(B, C, F, H, W)``, grids ``(B, V, C, T, H, W)``."""

    module: str

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.build().eval()
        perturb(model.parameters(), 0.1)
        return model

    @contextmanager
    def dense_mask(self, allowed: Tensor):
        """Self-attention over as many tokens as ``allowed (S, S)`` has is masked by it, in torch's own attention."""
        module = import_module(f"diffusers.models.transformers.{self.module}")
        dispatch = module.dispatch_attention_fn

        def masked(query, key, value, attn_mask=None, **others):
            if query.shape[1] == key.shape[1] == allowed.shape[0]:
                attn_mask = allowed
            return dispatch(query, key, value, attn_mask=attn_mask, **others)

        with mock.patch.object(module, "dispatch_attention_fn", masked):
            yield


class Wan(Family):
    module = "transformer_wan"
    last_norm = "norm_out"
    rotary_name = "rotary_emb"

    def build(self) -> nn.Module:
        return diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=CHANNELS,
            out_channels=CHANNELS, text_dim=TEXT, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=64,
        )

    def video(self, model: nn.Module, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return model(latents, timestep, text, return_dict=False)[0]

    grid = video

    def tokens_per_frame(self) -> int:
        return HEIGHT * WIDTH // 4

    def blocks(self, model: nn.Module) -> nn.ModuleList:
        return model.blocks


class LTX(Family):
    module = "transformer_ltx"
    last_norm = "norm_out"
    rotary_name = "image_rotary_emb"
    scale = (0.5, 32.0, 32.0)

    def build(self) -> nn.Module:
        return diffusers.LTXVideoTransformer3DModel(
            in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=2, attention_head_dim=10,
            cross_attention_dim=20, num_layers=2, caption_channels=TEXT,
        )

    def video(self, model: nn.Module, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        frames, height, width = latents.shape[2:]
        tokens = latents.permute(0, 2, 3, 4, 1).flatten(1, 3)
        out = model(
            tokens, text, timestep, self._text_mask(text), num_frames=frames, height=height, width=width,
            rope_interpolation_scale=self.scale, return_dict=False,
        )[0]
        return out.unflatten(1, (frames, height, width)).permute(0, 4, 1, 2, 3)

    def grid(self, model: nn.Module, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return model(
            latents, text, timestep, self._text_mask(text), rope_interpolation_scale=self.scale, return_dict=False
        )[0]

    def _text_mask(self, text: Tensor) -> Tensor:
        """Some tokens of each sample, the same for each of its videos."""
        return (text[..., 0] < 0.5).float()

    def tokens_per_frame(self) -> int:
        return HEIGHT * WIDTH

    def blocks(self, model: nn.Module) -> nn.ModuleList:
        return model.transformer_blocks


def grid_latents(times: int = TIMES) -> Tensor:
    return torch.randn(BATCH, VIEWS, CHANNELS, times, HEIGHT, WIDTH)


def conditions() -> tuple[Tensor, Tensor]:
    """Diffusion time of each sample and its text; every sample has its own."""
    return torch.tensor([100.0, 700.0]), torch.randn(BATCH, 5, TEXT)


def repeated(conditions: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, ...]:
    """The conditions of each sample for ``count`` videos of it."""
    return tuple(x.repeat_interleave(count, 0) for x in conditions)


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


def gradients(model: nn.Module, out: Tensor) -> dict[str, Tensor | None]:
    """Of every parameter."""
    model.zero_grad(set_to_none=True)
    out.square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_close(got: dict[str, Tensor | None], expected: dict[str, Tensor | None], tolerance: float) -> None:
    """Gradients of less than 1e-7 of the largest are rounding: a bias of all keys, for one, changes no softmax."""
    noise = 1e-7 * max(gradient.abs().max() for gradient in expected.values() if gradient is not None)
    for name, gradient in got.items():
        if expected[name] is None or expected[name].abs().max() <= noise:
            assert gradient is None or gradient.abs().max() <= noise, name
        else:
            assert relative_error(gradient, expected[name]) <= tolerance, name


def trace(model: nn.Module) -> dict[str, tuple]:
    """Everything an integration could leave behind in any module."""
    return {
        name: (
            sorted(key for key in vars(module) if key != "processor"),
            [value for value in vars(module).values() if isinstance(value, bool | int | str)],
            type(vars(module).get("processor")),
            *(len(vars(module)[key]) for key in vars(module) if key.endswith("_hooks")),
        )
        for name, module in model.named_modules()
    }
