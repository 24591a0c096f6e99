"""Held-out scenes as they are evaluated: rendered with their geometry, colours in 8 bits."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..data import HELD_OUT_SEED, GridRender, render, sample_scene


def held_out_render(
    seed: int, views: int, times: int, height: int, width: int, family: str = "easy"
) -> GridRender:
    """The true grid of a held-out scene with depth, instances and poses; frames rounded to 8 bits as stored videos are.

    Raises:
        ValueError: a seed below 900000, which may have been trained on.
    """
    check_held_out("seed", seed)
    truth = render(sample_scene(seed, views, times, family), height, width)
    return replace(truth, frames=(truth.frames * 255).round() / 255)


def held_out_grid(seed: int, views: int, times: int, height: int, width: int, family: str = "easy") -> Tensor:
    """The true frames ``(V, T, 3, H, W)`` of a held-out scene, as of :func:`held_out_render`."""
    return held_out_render(seed, views, times, height, width, family).frames


def check_held_out(name: str, seed: int) -> None:
    """Raise ValueError, which calls the seed ``name``, if it may have been trained on."""
    if seed < HELD_OUT_SEED:
        raise ValueError(f"{name}: got {seed}, expected at least {HELD_OUT_SEED}: lower seeds may have been trained on")
