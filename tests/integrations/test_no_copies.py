"""The integrations hand the operator what the projections wrote, and hand on what the operator wrote."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to
from video_models import LTX, Wan, conditions, grid_latents


@pytest.mark.parametrize("family, module", [(Wan(), "wan"), (LTX(), "ltx")], ids=["Wan", "LTX"])
@pytest.mark.parametrize("mode", ["time", "fused", "two_stream"])
def test_values_and_results_stay_where_they_are(family, module, mode, monkeypatch):
    module = import_module("fourreal_kernels.integrations.diffusers.self_attention")
    model, attention = family.model(), module.axis_attention
    values, results, projected, passed_on = [], [], [], []

    def watched(q, k, v, axes, **rest):
        values.append(v.data_ptr())
        out = attention(q, k, v, axes, **rest)
        results.append(out.data_ptr())
        return out

    monkeypatch.setattr(module, "axis_attention", watched)
    apply_to(model, mode)
    for block in family.blocks(model):
        block.attn1.to_v.register_forward_hook(lambda module, args, out: projected.append(out.data_ptr()))
        block.attn1.to_out[0].register_forward_pre_hook(lambda module, args: passed_on.append(args[0].data_ptr()))
    with torch.no_grad():
        family.grid(model, grid_latents(), *conditions())
    assert values == projected and results == passed_on and values
