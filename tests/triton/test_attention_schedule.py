"""Which rows the programs of the attention kernels own and which they walk: each once, as the axes are defined."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from attention_cases import allowed_pairs
from fourreal_kernels.grid import parse_axes
from fourreal_kernels.ops.axis_attention.triton_frames import listed_offsets, locate, own_offsets, own_rows
from fourreal_kernels.ops.axis_attention.triton_relation import Relation
from interpreter_calls import patched_once

VIEWS, TIMES, TOKENS, HEADS = 2, 3, 5, 2
BLOCK, LIST_BLOCK = 8, 32


@triton.jit
def schedule(
    owned, walked, tiles, views, times, tokens, heads,
    FRAMES: tl.constexpr, JOINT: tl.constexpr, BLOCK: tl.constexpr, LIST_BLOCK: tl.constexpr,
):
    """Row numbers, of a grid stored (V, T, N, H), of what each program owns and of its frame list."""
    program = tl.program_id(0)
    sizes = (views, times, tokens, heads)
    strides = (0, times * tokens * heads, tokens * heads, heads, 1)
    place, tile = locate(program, tiles, sizes, FRAMES, JOINT)
    rows, exist = own_rows(tile, place, sizes, FRAMES, JOINT, BLOCK)
    base, offsets = own_offsets(place, rows, strides, JOINT, BLOCK)
    tl.store(owned + program * BLOCK + tl.arange(0, BLOCK), tl.where(exist, base + offsets, -1))
    base, offsets = listed_offsets(0, place, sizes, strides, FRAMES, JOINT, "any", False, LIST_BLOCK)
    tl.store(walked + program * LIST_BLOCK + tl.arange(0, LIST_BLOCK), base + offsets)


@pytest.mark.parametrize("axes", ["n", "vn", "tn", "vtn", "vn|tn", "v", "t", "vt", "v|t"])
def test_rows_are_written_once_and_lists_are_those_of_the_axes(axes):
    relation = Relation.of(parse_axes(axes))
    grid = torch.arange(VIEWS * TIMES * TOKENS * HEADS).view(1, VIEWS, TIMES, TOKENS, HEADS)
    seen = relation.seen(grid)
    programs, length = relation.programs(seen.shape, BLOCK), relation.keys(seen.shape)
    owned, walked = (torch.empty(programs, block, dtype=torch.int64) for block in (BLOCK, LIST_BLOCK))
    with patched_once():
        schedule[(programs,)](
            owned, walked, -(-relation.rows(seen.shape) // BLOCK), *seen.shape[1:], FRAMES=relation.frames,
            JOINT=relation.tokens, BLOCK=BLOCK, LIST_BLOCK=LIST_BLOCK,
        )
    assert sorted(owned[owned >= 0].tolist()) == grid.flatten().tolist()
    allowed = allowed_pairs(axes, VIEWS, TIMES, TOKENS)
    numbers = seen.flatten()
    for rows, keys in zip(owned, walked[:, :length], strict=True):
        for row in numbers[rows[rows >= 0]].tolist():
            token, head = divmod(row, HEADS)
            wanted = [key * HEADS + head for key in allowed[token].nonzero().flatten().tolist()]
            assert sorted(numbers[keys].tolist()) == wanted
