"""Models with parts switched off."""

import pytest
import torch

from benchmarks.ablation import PARTS, without
from tiny_models import model_inputs, random_model


@pytest.fixture
def model():
    return random_model(mode="two_stream_soft", head="warp", matching=False, depth=2)


def _frames(model):
    with torch.no_grad():
        return model(*model_inputs(model)).frames


@pytest.mark.parametrize("part", PARTS)
def test_every_part_counts_and_comes_back(model, part):
    whole = _frames(model)
    with without(model, part):
        assert (_frames(model) - whole).abs().max() > 1e-4
    assert torch.equal(_frames(model), whole)


def test_no_part_switched_off_is_the_model(model):
    whole = _frames(model)
    with without(model, None):
        assert torch.equal(_frames(model), whole)


def test_attention_switched_off_is_attention_of_zero_weights(model):
    with without(model, "attention"):
        found = _frames(model)
    for block in model.blocks:
        for parameter in block.attention.out.parameters():
            parameter.data.zero_()
    torch.testing.assert_close(found, _frames(model), atol=1e-6, rtol=0)


def test_one_stream_without_attention_leaves_the_other(model):
    results = []
    for part in ("attention along views", "attention along time", "attention"):
        with without(model, part):
            results.append(_frames(model))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (results[first] - results[second]).abs().max() > 1e-4
