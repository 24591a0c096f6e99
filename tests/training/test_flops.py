"""Counted arithmetic against torch's own counter."""

from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fourreal_kernels.training.flops import forward_flops
from tiny_models import model_inputs, random_model

MODES = [("two_stream_soft", False), ("two_stream_hard", False), ("sequential", True), ("fused", True)]


def _pairs(views: int, times: int, mode: str) -> int:
    """Pairs of frames that attend to one another in one layer."""
    frames = list(product(range(views), range(times)))
    same_view, same_time = ({(a, b) for a, b in product(frames, frames) if a[i] == b[i]} for i in (0, 1))
    return len(same_view | same_time) if mode == "fused" else len(same_view) + len(same_time)


@pytest.mark.parametrize("head", ["warp", "direct"])
@pytest.mark.parametrize(("mode", "adapters"), MODES)
def test_flops_of_a_forward_pass(mode, adapters, head):
    """Our operators, which torch's counter cannot see into, by hand: attention by its pairs of frames, exchanges."""
    model = random_model(mode=mode, adapters=adapters, head=head, matching=False, dim=48, heads=1)
    config = model.config
    inputs = model_inputs(model, batch=1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    views, times, tokens = config.views, config.times, config.token_height * config.token_width
    attention = 4 * config.dim * _pairs(views, times, mode) * tokens**2 * config.depth
    weights = sum(sync.weight.numel() for sync in model.sync) if config.two_streams else 0
    by_hand = attention + 2 * weights * views * times * tokens
    modulation = [model.modulation, model.final_modulation, model.sync_cond, *model.sigma_embedding.mlp]
    modulation += [sync.modulation for sync in model.sync]
    once = sum(2 * layer.weight.numel() for layer in modulation if isinstance(layer, torch.nn.Linear))
    once += 2 * 2 * model.modulation.weight.numel()  # one for each context: view, time, both
    expected = sum(forward_flops(config, views, times).values())
    assert counter.get_total_flops() + by_hand - once == expected
