"""``linear``: the values of the layer, by oneDNN where nothing but values is wanted, else by the layer itself."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fourreal_kernels import use_backend
from fourreal_kernels.nn import linear as module
from fourreal_kernels.nn.linear import linear
from op_numerics import assert_close_as_pytorch, bitwise_equal

needs_onednn = pytest.mark.skipif(not module._has_onednn(), reason="this PyTorch has no oneDNN")


@pytest.fixture
def products(monkeypatch):
    """The calls that oneDNN got, of products of any size."""
    calls, product = [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(module, "_FEWEST_PRODUCTS", 0)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a: calls.append(a) or product(*a), raising=False)
    return calls


@needs_onednn
@pytest.mark.parametrize("shape", [(1, 16), (7, 16), (2, 3, 4, 5, 16), (390, 100), (65, 1), (0, 16)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
def test_values(products, gelu, bias, shape):
    layer, x = nn.Linear(shape[-1], 24, bias=bias), 3 * torch.randn(shape)
    with torch.no_grad():
        actual, eager, exact = linear(layer, x, gelu=gelu), layer(x), copy.deepcopy(layer).double()(x.double())
    if gelu:
        eager, exact = (F.gelu(y, approximate="tanh") for y in (eager, exact))
    assert len(products) == 1 and actual.shape == (*shape[:-1], 24)
    if actual.numel():
        assert_close_as_pytorch(actual, exact, eager)


class Doubled(nn.Module):
    """An adapter around a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return 2 * self.layer(x)


def hooked(layer):
    layer.register_forward_hook(lambda layer, inputs, output: 2 * output)
    return layer


def replaced(layer):
    """As libraries for quantisation and offloading do it."""
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)
    return layer


@pytest.mark.parametrize("change", [Doubled, hooked, replaced])
def test_layers_that_do_more_are_called(products, change):
    layer, x = nn.Linear(16, 24), torch.randn(5, 16)
    with torch.no_grad():
        expected = 2 * layer(x)
        changed = change(layer)
        assert bitwise_equal(linear(changed, x), expected)
        assert bitwise_equal(linear(changed, x, gelu=True), F.gelu(expected, approximate="tanh"))
    assert not products


def test_gradients_are_those_of_the_layer(products):
    layer, x = nn.Linear(16, 24), torch.randn(5, 16, requires_grad=True)
    actual = torch.autograd.grad(linear(layer, x, gelu=True).square().sum(), [x, *layer.parameters()])
    expected = torch.autograd.grad(F.gelu(layer(x), approximate="tanh").square().sum(), [x, *layer.parameters()])
    assert not products and all(bitwise_equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left_to_the_layer(products, dtype):
    layer, x = nn.Linear(16, 24).to(dtype), torch.randn(5, 16, dtype=dtype)
    with torch.no_grad():
        assert bitwise_equal(linear(layer, x), layer(x)) and not products


def test_strided_inputs_are_left_to_the_layer(products):
    layer, x = nn.Linear(16, 24), torch.randn(16, 5).T
    with torch.no_grad():
        assert bitwise_equal(linear(layer, x), layer(x)) and not products


def test_autocast_is_obeyed(products):
    layer, x = nn.Linear(16, 24), torch.randn(5, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(layer, x).dtype == torch.bfloat16 and not products


def test_the_reference_backend_is_plain_pytorch(products):
    layer, x = nn.Linear(16, 24), torch.randn(5, 16)
    with torch.no_grad(), use_backend("reference"):
        assert bitwise_equal(linear(layer, x), layer(x)) and not products


@needs_onednn
def test_other_backends_do_not_concern_it(products):
    with torch.no_grad(), use_backend("reference"), use_backend("auto"):
        linear(nn.Linear(16, 24), torch.randn(5, 16))
    with torch.no_grad(), use_backend("cpu"):
        linear(nn.Linear(16, 24), torch.randn(5, 16))
    assert len(products) == 2


def test_small_products_are_left_to_the_layer(products, monkeypatch):
    monkeypatch.setattr(module, "_FEWEST_PRODUCTS", 5 * 16 * 24 + 1)
    layer, x = nn.Linear(16, 24), torch.randn(5, 16)
    with torch.no_grad():
        assert bitwise_equal(linear(layer, x), layer(x)) and not products


def test_compilers_see_the_layer(products):
    layer, x = nn.Linear(16, 24), torch.randn(5, 16)
    compiled = torch.compile(lambda x: linear(layer, x, gelu=True), backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), F.gelu(layer(x), approximate="tanh"))
    assert not products


def test_wrong_widths_are_refused_by_the_layer(products):
    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(nn.Linear(16, 24), torch.randn(5, 17))
    assert not products
