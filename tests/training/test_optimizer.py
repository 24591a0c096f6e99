"""Muon, the choice of what it updates, and the averaged weights."""

import pytest
import torch
from torch import nn

from fourreal_kernels.training.ema import EMA
from fourreal_kernels.training.optimizer import Muon, build_optimizers, orthogonalise
from tiny_models import tiny_model


def _matrix(rows, columns, smallest=0.03):
    """A random matrix with singular values between ``smallest`` and 1."""
    rank = min(rows, columns)
    left, right = (torch.linalg.qr(torch.randn(n, rank))[0] for n in (rows, columns))
    return left @ torch.diag(torch.linspace(smallest, 1, rank)) @ right.T


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (12, 40), (40, 12), (9, 9)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_orthogonalised_matrices_have_singular_values_near_one(rows, columns, size):
    matrix = size * _matrix(rows, columns)
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result)
    assert 0.6 < values.min() and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    cosine = (result * (left @ right)).sum() / result.norm() / min(rows, columns) ** 0.5
    assert cosine > 0.97, "the singular vectors are kept"


def test_a_zero_gradient_is_no_update():
    assert not orthogonalise(torch.zeros(9, 12)).any()


def test_muon_steps_by_its_definition():
    """Two steps by hand: Nesterov momentum, orthogonalised, scaled to a root mean square of 0.3, decoupled decay."""
    start, gradients = torch.randn(10, 24), torch.randn(2, 10, 24)
    parameter = nn.Parameter(start.clone())
    optimizer = Muon([parameter], lr=0.1, weight_decay=0.2, momentum=0.9)
    momentum, expected = torch.zeros(10, 24), start.clone()
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        update = orthogonalise(0.1 * gradient + 0.9 * momentum)
        expected = (1 - 0.1 * 0.2) * expected - 0.1 * 0.3 * 24**0.5 * update
    torch.testing.assert_close(parameter.data, expected, atol=1e-4, rtol=1e-4)
    moved = (parameter.data - start * 0.98**2).square().mean().sqrt()
    assert 0.02 < moved < 0.07, "two steps of 0.1 * 0.3"


def test_muon_leaves_parameters_without_a_gradient():
    parameters = [nn.Parameter(torch.randn(10, 10)) for _ in range(2)]
    kept = parameters[1].detach().clone()
    optimizer = Muon(parameters, lr=0.1, weight_decay=0.5)
    parameters[0].grad = torch.randn(10, 10)
    optimizer.step()
    assert torch.equal(parameters[1], kept) and not torch.equal(parameters[0].grad, kept)
    assert len(optimizer.state) == 1


@pytest.mark.parametrize("mode", ["two_stream_soft", "fused"])
def test_muon_takes_the_hidden_matrices_and_adamw_the_rest(mode):
    model = tiny_model(mode=mode)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizers = build_optimizers(list(model.named_parameters()), 0.1, 0.0)
    assert [type(optimizer).__name__ for optimizer in optimizers] == ["Muon", "AdamW"]
    muon, adamw = ({names[id(p)] for group in o.param_groups for p in group["params"]} for o in optimizers)
    assert muon | adamw == set(names.values()) and not muon & adamw
    assert {"blocks.0.attention.qkv.weight", "blocks.1.mlp.0.weight"} <= muon
    assert {"embed.conv.weight", "position_embedding", "head.mix.weight", "blocks.0.table"} <= adamw
    assert all(name.startswith(("blocks.", "sync.")) and name.endswith("weight") for name in muon)
    assert ("sync.0.weight" in muon) == (mode == "two_stream_soft")


def test_one_kind_of_parameter_needs_one_optimizer():
    vector, matrix = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(9, 9))
    assert [type(o).__name__ for o in build_optimizers([("head.bias", vector)], 0.1, 0.0)] == ["AdamW"]
    assert [type(o).__name__ for o in build_optimizers([("blocks.0.w.weight", matrix)], 0.1, 0.0)] == ["Muon"]


def test_ema_is_the_running_average_with_a_growing_decay():
    model = nn.Linear(3, 2)
    ema = EMA(model, 0.3)
    expected = model.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update(model)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
        torch.testing.assert_close(ema.model.weight.detach(), expected)
    assert (1 + 1) / (10 + 1) < 0.3 < (1 + 5) / (10 + 5), "both branches of the decay were taken"


def test_ema_is_a_separate_model_without_gradients():
    model = tiny_model(mode="two_stream_soft")
    ema = EMA(model, 0.9)
    assert not ema.model.training and not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    before = {name: tensor.clone() for name, tensor in ema.model.state_dict().items()}
    assert not any(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    ema.update(model)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in ema.model.state_dict().items())


def test_ema_of_frozen_weights_stays_what_they_are():
    model = nn.Linear(3, 2)
    ema = EMA(model, 0.9)
    for _ in range(4):
        ema.update(model)
    assert torch.equal(ema.model.weight, model.weight)
