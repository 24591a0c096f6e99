"""Blocks of models whose text and video tokens share one softmax: every line of the grid keeps a copy of the text."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to, sync_layers
from tiny_models import perturb
from transformer_families import joint_families
from video_models import BATCH, TIMES, VIEWS, conditions, grid_latents, relative_error, repeated

TOLERANCE = 1e-5


def _long_video(grid):
    """All timesteps of view 0, then those of view 1, ..."""
    return grid.permute(0, 2, 1, 3, 4, 5).flatten(2, 3)


def _rows(grid):
    return grid.flatten(0, 1)


def _columns(grid):
    return grid.permute(0, 3, 2, 1, 4, 5).flatten(0, 1)


@joint_families
@pytest.mark.parametrize("sync", ["hard", "soft"])
def test_two_streams_are_the_blocks_on_each_stream_then_the_sync_layer(family, sync):
    """Blocks of an untouched model run on lines of the grid; sync layers are random and exchange video alone."""
    model, given, grid = family.model(), conditions(), grid_latents()
    untouched, tokens = family.model(), []
    calls = {
        "view": _first_block_call(family, grid, given, _columns, TIMES),
        "time": _first_block_call(family, grid, given, _rows, VIEWS),
    }
    apply_to(model, "two_stream", sync=sync)
    layers = sync_layers(model)
    perturb(layers.parameters())
    getattr(model, family.last_norm).register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    with torch.no_grad():
        family.grid(model, grid, *given)
        cond = layers.conditioning(calls["time"]["others"][0][::VIEWS])
        for block, layer in zip(family.blocks(untouched), layers.layers, strict=True):
            for call in calls.values():
                call["video"], call["text"] = block(call["video"], call["text"], *call["others"])
            view = calls["view"]["video"].unflatten(1, (VIEWS, -1)).unflatten(0, (BATCH, TIMES)).transpose(1, 2)
            time = calls["time"]["video"].unflatten(1, (TIMES, -1)).unflatten(0, (BATCH, VIEWS))
            view, time = layer(view.contiguous(), time.contiguous(), cond)
            calls["view"]["video"] = view.transpose(1, 2).flatten(2, 3).flatten(0, 1)
            calls["time"]["video"] = time.flatten(2, 3).flatten(0, 1)
    assert relative_error(tokens[0], ((view + time) / 2).flatten(1, 3)) <= TOLERANCE


@joint_families
def test_sequential_is_every_block_on_views_then_on_timesteps(family):
    """Each line keeps its copy of the text; blocks of an untouched model get the arguments of the videos of a line.

    Tokens start as in one long video, which matters where positions are added to them.
    """
    model, given, grid = family.model(), conditions(), grid_latents()
    untouched, tokens = family.model(), []
    time = _first_block_call(family, grid, given, _rows, VIEWS)
    view = _first_block_call(family, grid, given, _columns, TIMES)
    start = _first_block_call(family, grid, given, _long_video, 1)["video"]
    apply_to(model, "sequential")
    getattr(model, family.last_norm).register_forward_pre_hook(lambda module, args: tokens.append(args[0]))
    with torch.no_grad():
        family.grid(model, grid, *given)
        video = start.unflatten(1, (VIEWS, TIMES, -1))
        for block in family.blocks(untouched):
            lines = video.transpose(1, 2).flatten(2, 3).flatten(0, 1)
            lines, view["text"] = block(lines, view["text"], *view["others"])
            video = lines.unflatten(1, (VIEWS, -1)).unflatten(0, (BATCH, TIMES)).transpose(1, 2)
            lines, time["text"] = block(video.flatten(2, 3).flatten(0, 1), time["text"], *time["others"])
            video = lines.unflatten(1, (TIMES, -1)).unflatten(0, (BATCH, VIEWS))
    assert relative_error(tokens[0], video.flatten(1, 3)) <= TOLERANCE


def _first_block_call(family, grid, given, lines, count):
    """What the first block of an untouched model gets for videos that are lines of the grid."""
    model, seen = family.model(), []
    family.blocks(model)[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend((*args, *kwargs.values())), with_kwargs=True
    )
    with torch.no_grad():
        family.video(model, lines(grid), *repeated(given, count))
    return {"video": seen[0], "text": seen[1], "others": seen[2:]}
