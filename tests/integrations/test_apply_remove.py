"""What applying to a model changes in it, and that all of it is taken back."""

from __future__ import annotations

from copy import deepcopy

import torch

from fourreal_kernels.integrations.diffusers import apply_to, remove_from
from tiny_models import perturb
from transformer_families import families, modes
from video_models import BATCH, CHANNELS, HEIGHT, TIMES, WIDTH, conditions, grid_latents, trace


@families
@modes
def test_remove_restores_the_model(family, mode):
    model, given = family.model(), conditions()
    next(model.parameters()).requires_grad_(False)
    video = torch.randn(BATCH, CHANNELS, TIMES, HEIGHT, WIDTH)
    with torch.no_grad():
        expected = family.video(model, video, *given)
    processors = dict(model.attn_processors)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    before, weights = trace(model), {name: x.clone() for name, x in model.state_dict().items()}
    for _ in range(2):
        apply_to(model, mode)
        with torch.no_grad():
            family.grid(model, grid_latents(), *given)
        assert trace(model) != before
        remove_from(model)
        assert trace(model) == before
    assert model.attn_processors == processors
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trainable
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(family.video(model, video, *given), expected)


@families
@modes
def test_a_deep_copy_is_a_model_of_its_own(family, mode):
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, mode)
    copied = deepcopy(model)
    with torch.no_grad():
        expected = family.grid(model, grid, *given)
        assert torch.equal(family.grid(copied, grid, *given), expected)
        remove_from(copied)
        assert trace(copied) == trace(family.model())
        perturb(copied.parameters())
        assert torch.equal(family.grid(model, grid, *given), expected)


@families
@modes
def test_state_dict_keys_are_those_of_the_base(family, mode):
    model = family.model()
    keys = list(model.state_dict())
    apply_to(model, mode)
    assert list(model.state_dict()) == keys
    assert model.load_state_dict(family.model().state_dict()).missing_keys == []


@families
def test_a_missing_weight_is_still_reported(family):
    model = family.model()
    apply_to(model, "two_stream")
    weights = model.state_dict()
    lost = next(iter(weights))
    del weights[lost]
    assert model.load_state_dict(weights, strict=False).missing_keys == [lost]
