"""What the parts of a trained two-stream model add: its one-step answers with parts switched off.

``python -m benchmarks.ablation --scenes N --json PATH``: held-out scenes, frames against their truth and flows against
those of the renderer.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from unittest import mock

import torch
from torch import Tensor

from fourreal_kernels.cli.environment import versions
from fourreal_kernels.data import HELD_OUT_SEED, GridRender
from fourreal_kernels.data.geometry import flow_to_given
from fourreal_kernels.evaluation.evaluate import deviation, measure, over_scenes
from fourreal_kernels.evaluation.held_out import held_out_render
from fourreal_kernels.model import GridPipeline, GridTransformer, cross_mask

from .quality import metric_table

PARTS = ("attention along views", "attention along time", "attention", "synchronisation", "transformer")


@contextmanager
def without(model: GridTransformer, part: str | None) -> Iterator[None]:
    """Inside, ``model``, which has two streams, runs without the part; with all of them when None.

    Attention adds nothing to the stream (or to both), streams go past the synchronisation layers, or the head gets
    zeros for what it takes from the tokens.
    """
    patched = list(_patched(model, part)) if part is not None else []
    with ExitStack() as stack:
        for patch in patched:
            stack.enter_context(patch)
        yield


def _patched(model: GridTransformer, part: str) -> Iterator[mock._patch]:
    if part == "transformer":
        yield mock.patch.object(model.head.pixels, "forward", _zeros_like(model.head.pixels.forward))
    elif part == "synchronisation":
        for sync in model.sync:
            yield mock.patch.object(sync, "forward", lambda view, time, cond=None, inplace=False: (view, time))
    else:
        kept = {"attention along views": (0.0, 1.0), "attention along time": (1.0, 0.0), "attention": (0.0, 0.0)}[part]
        for block in model.blocks:
            yield mock.patch.object(block.attention, "two_stream", _scaled(block.attention.two_stream, kept))


def _zeros_like(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: torch.zeros_like(forward(*args))


def _scaled(two_stream: Callable[..., tuple[Tensor, Tensor]], factors: tuple[float, float]) -> Callable:
    return lambda *args: tuple(factor * out for factor, out in zip(factors, two_stream(*args), strict=True))


@torch.no_grad()
def scene(model: GridTransformer, render: GridRender, seed: int) -> dict[str, dict[str, float]]:
    """Metrics of the answers from pure noise by what is switched off, and of the aligned given frames' mean."""
    clean = (render.frames * 2 - 1)[None]
    given = cross_mask(*clean.shape[1:3])[None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    frames = torch.where(given[..., None, None, None], clean, noise)
    prepared = model.prepare(frames, given)
    found = {}
    for part in (None, *PARTS):
        with without(model, part):
            answer = model(frames, given, torch.ones(1), prepared=prepared)
        name = "whole model" if part is None else f"without {part}"
        found[name] = _measured(answer.frames, answer.flow_same_view, answer.flow_same_time, render)
    aligned = prepared.alignment
    mean = (aligned.same_view + aligned.same_time) / 2
    found["aligned given frames, mean"] = _measured(mean, aligned.flow_same_view, aligned.flow_same_time, render)
    return found


def _measured(frames: Tensor, flow_view: Tensor, flow_time: Tensor, render: GridRender) -> dict[str, float]:
    values = measure((frames[0] / 2 + 0.5).clamp(0, 1), render.frames)
    true = flow_to_given(render)
    return values | {
        "flow_same_view": _flow_error(flow_view[0], true.flow_from_freeze, true.visible_from_freeze),
        "flow_same_time": _flow_error(flow_time[0], true.flow_from_fixed, true.visible_from_fixed),
    }


def _flow_error(flow: Tensor, true: Tensor, visible: Tensor) -> float:
    """Mean distance in pixels, over the visible pixels of the frames that are not given."""
    counted = visible & ~cross_mask(*visible.shape[:2])[..., None, None]
    return float((flow - true).norm(dim=2)[counted].mean())


def markdown(mean: dict[str, dict[str, float]]) -> str:
    heads = (
        "one step", "PSNR dB", "PSNR dB, moving pixels", "SSIM", "gradient energy", "flow error, same view, px",
        "flow error, same timestep, px",
    )  # fmt: skip
    return metric_table(heads, mean, digits=(2, 2, 3, 3, 2, 2))


def main(arguments: Namespace) -> None:
    model = GridPipeline.from_pretrained(arguments.model).model
    config = model.config
    scenes: dict[int, dict] = {}
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + arguments.scenes):
        render = held_out_render(seed, config.views, config.times, config.height, config.width)
        scenes[seed] = scene(model, render, seed)
        result = {
            "settings": {"model": arguments.model, "config": config.to_dict(), "versions": versions()},
            "mean": over_scenes(scenes, fmean),
            "deviation": over_scenes(scenes, deviation),
            "scenes": scenes,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{len(scenes)} scenes\n\n{markdown(result['mean'])}\n", flush=True)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--json", type=Path, required=True)
    main(parser.parse_args())
