"""Changed models in training: what gets a gradient, gradient checkpointing, low precision."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to, sync_layers
from tiny_models import perturb
from transformer_families import families, modes, random_sync_model
from video_models import conditions, grid_latents


@families
def test_only_sync_layers_train_and_every_one_gets_a_gradient(family):
    model = random_sync_model(family)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {f"grid_sync.{name}" for name, _ in sync_layers(model).named_parameters()}
    family.grid(model, grid_latents(), *conditions()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trainable), name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name


@families
def test_with_grad_and_in_place_without_grad_agree(family):
    model, given, grid = random_sync_model(family), conditions(), grid_latents()
    expected = family.grid(model, grid, *given).detach()
    with torch.no_grad():
        torch.testing.assert_close(family.grid(model, grid, *given), expected, rtol=1e-5, atol=1e-5)


@families
@modes
def test_gradient_checkpointing_gives_the_same_gradients(family, mode):
    """Another grid is run before the backward pass, which recomputes the first one."""
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, mode)
    if mode == "two_stream":
        perturb(sync_layers(model).parameters())
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad(set_to_none=True)
        if checkpointing:
            model.enable_gradient_checkpointing()
        loss = family.grid(model, grid, *given).square().mean()
        family.grid(model, grid_latents(2), *given)
        loss.backward()
        gradients.append({name: x.grad for name, x in model.named_parameters() if x.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


@families
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sync_layers_follow_the_dtype_of_the_model(family, dtype):
    """Patch convolutions of float16 on the CPU put channels outermost, which the layers would refuse."""
    model, given = family.model().to(dtype), conditions()
    apply_to(model, "two_stream", sync="hard", sync_per_channel=True)
    assert {parameter.dtype for parameter in sync_layers(model).parameters()} == {dtype}
    with torch.no_grad():
        out = family.grid(model, grid_latents().to(dtype), given[0], given[1].to(dtype))
    assert out.dtype == dtype and out.isfinite().all()


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@families
@modes
def test_under_autocast(family, mode):
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, mode)
    if mode == "two_stream":
        perturb(sync_layers(model).parameters())
    with torch.no_grad():
        expected = family.grid(model, grid, *given)
    with torch.autocast("cpu", torch.bfloat16):
        got = family.grid(model, grid, *given).float()
    assert (got - expected).abs().mean() < 0.03 * expected.abs().mean()
    got.square().mean().backward()
    trained = sync_layers(model) if mode == "two_stream" else model
    assert all(parameter.grad.isfinite().all() for parameter in trained.parameters())


@families
def test_float32_sync_layers_after_a_bfloat16_model(family):
    model, given = family.model().bfloat16(), conditions()
    apply_to(model, "two_stream")
    sync_layers(model).float()
    out = family.grid(model, grid_latents().bfloat16(), given[0], given[1].bfloat16())
    out.float().square().mean().backward()
    gradients = [parameter.grad for parameter in sync_layers(model).parameters()]
    assert out.dtype == torch.bfloat16 and all(gradient.dtype == torch.float32 for gradient in gradients)
