"""Attention reads what the projections wrote and hands on what the operator wrote, in every transformer."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fourreal_kernels.integrations.diffusers import apply_to
from fourreal_kernels.integrations.diffusers.joint_attention import JointProcessor
from fourreal_kernels.integrations.diffusers.self_attention import SelfAttentionProcessor
from transformer_families import FAMILIES, families
from video_models import BATCH, CHANNELS, HEIGHT, TIMES, VIEWS, WIDTH, conditions, grid_latents

MOVES = {"clone": "copy", "copy_": "copy", "_to_copy": "copy", "cat": "cat"}
# A model with joint attention puts text and video behind one another, q, k and v apart in blocks with projections for
# each; the result of several such sequences goes back among the frames.
CATS = {"CogVideoX": [1, 1], "CogVideoX-2B": [1, 1], "HunyuanVideo": [3, 1]}


class Moves(TorchDispatchMode):
    """Counts copies and concatenations of at least so many elements."""

    def __init__(self, elements: int):
        super().__init__()
        self.elements = elements
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in MOVES and out.numel() >= self.elements:
            self.seen[MOVES[name]] += 1
        return out


@families
@pytest.mark.parametrize("mode", ["time", "fused", "two_stream"])
def test_attention_moves_no_activations(family, mode, monkeypatch):
    name = next(name for name, listed in FAMILIES.items() if listed is family)
    calls: list[tuple[str, Counter[str]]] = []

    def counting(processor_type):
        call = processor_type.__call__

        def counted(self, attn, hidden_states, encoder_hidden_states, attention_mask, grid):
            with Moves(hidden_states.numel()) as moves:
                out = call(self, attn, hidden_states, encoder_hidden_states, attention_mask, grid)
            calls.append((grid.axes, moves.seen))
            return out

        return counted

    def joint(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        return joint_counted(self, attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)

    joint_counted = counting(JointProcessor)
    monkeypatch.setattr(JointProcessor, "__call__", joint)
    monkeypatch.setattr(SelfAttentionProcessor, "__call__", counting(SelfAttentionProcessor))
    model = family.model()
    apply_to(model, mode)
    with torch.no_grad():
        family.grid(model, grid_latents(), *conditions())
    streams = ["vn", "tn"] if mode == "two_stream" else [{"time": "tn", "fused": "vn|tn"}[mode]]
    cats = [count for count in CATS.get(name, [0, 0]) for _ in streams]
    copies = [int(name in CATS and axes != "vn|tn") for _ in family.blocks(model) for axes in streams]
    assert [axes for axes, _ in calls] == streams * len(family.blocks(model))
    assert [seen["cat"] for _, seen in calls] == cats
    assert [seen["copy"] for _, seen in calls] == copies


def test_patches_of_hunyuan_video_are_written_as_the_streams_read_them():
    """Its patch convolution would put channels outermost, which synchronisation layers refuse and norms copy."""
    family, written, read = FAMILIES["HunyuanVideo"], [], []
    model = family.model()
    apply_to(model, "two_stream", views=VIEWS)
    model.x_embedder.proj.register_forward_hook(lambda module, args, out: written.append(out.data_ptr()))
    model.transformer_blocks[0].norm1.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    with torch.no_grad():
        family.video(model, torch.randn(BATCH, CHANNELS, VIEWS * TIMES, HEIGHT, WIDTH), *conditions())
    assert [x.data_ptr() for x in read] == 2 * written and all(x.is_contiguous() for x in read)
