"""TwoStreamBlock around any block that takes an ``axes`` argument."""

import pytest
import torch
from torch import nn

from fourreal_kernels.nn import GridAttention, HardSync, SoftSync, TwoStreamBlock
from tiny_models import perturb

DIM, COND = 6, 4
GRID = (2, 3, 4, 2)
_MEAN_OVER = {"vn": (1, 3), "tn": (2, 3)}


class MeanBlock(nn.Module):
    """A block that is not of this library: mixes with the mean over the axes, and adds a context."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)
        self.calls = []

    def forward(self, x, axes, context=0.0):
        self.calls.append(axes)
        return x + self.linear(x.mean(_MEAN_OVER[axes], keepdim=True).expand_as(x)) + context


class JointBlock(MeanBlock):
    """The same with a method for both streams."""

    def two_stream(self, view, time, view_kwargs, time_kwargs):
        self.calls.append("both")
        return MeanBlock.forward(self, view, "vn", **view_kwargs), MeanBlock.forward(self, time, "tn", **time_kwargs)


def _streams():
    return torch.randn(2, *GRID, DIM).unbind(0)


def _random_sync(kind):
    sync = kind(DIM, COND)
    perturb(sync.parameters())
    return sync


@pytest.mark.parametrize("kind", [HardSync, SoftSync])
def test_runs_the_block_once_on_each_stream_then_the_sync(kind):
    block, sync = MeanBlock(), _random_sync(kind)
    view, time = _streams()
    cond = torch.randn(GRID[0], COND)
    contexts = {"context": torch.randn(DIM)}, {"context": torch.randn(DIM)}
    expected = sync(block(view, "vn", **contexts[0]), block(time, "tn", **contexts[1]), cond)
    block.calls.clear()
    result = TwoStreamBlock(block, sync)(view, time, cond, view_kwargs=contexts[0], time_kwargs=contexts[1])
    assert block.calls == ["vn", "tn"]
    for got, value in zip(result, expected, strict=True):
        assert torch.equal(got, value)


def test_each_stream_has_its_own_arguments():
    layer = TwoStreamBlock(MeanBlock(), SoftSync(DIM))
    view, time = _streams()
    plain = layer(view, time)
    with_context = layer(view, time, view_kwargs={"context": 1.0})
    torch.testing.assert_close(with_context[0], plain[0] + 1)
    assert torch.equal(with_context[1], plain[1])


def test_a_block_with_a_method_for_both_streams_is_called_once():
    block, sync = JointBlock(), _random_sync(SoftSync)
    plain = MeanBlock()
    plain.load_state_dict(block.state_dict())
    view, time = _streams()
    arguments = (view, time, torch.randn(GRID[0], COND))
    contexts = dict(view_kwargs={"context": 2.0}, time_kwargs={"context": torch.randn(DIM)})
    result = TwoStreamBlock(block, sync)(*arguments, **contexts)
    expected = TwoStreamBlock(plain, sync)(*arguments, **contexts)
    assert block.calls[0] == "both" and block.calls.count("both") == 1
    for got, value in zip(result, expected, strict=True):
        assert torch.equal(got, value)


@pytest.mark.parametrize("kind", [HardSync, SoftSync])
def test_in_place_equals_functional_and_keeps_the_inputs(kind):
    layer = TwoStreamBlock(MeanBlock(), _random_sync(kind))
    view, time = _streams()
    kept = view.clone(), time.clone()
    cond = torch.randn(GRID[0], COND)
    with torch.no_grad():
        expected = layer(view, time, cond)
        result = layer(view, time, cond, inplace=True)
    for got, value in zip(result, expected, strict=True):
        assert torch.equal(got, value)
    assert torch.equal(view, kept[0]) and torch.equal(time, kept[1])


def test_grid_attention_is_a_block():
    attention = GridAttention(DIM, 1, "n")
    layer = TwoStreamBlock(_Residual(attention), HardSync(DIM))
    view, time = _streams()
    average = (view + attention(view, axes="vn") + time + attention(time, axes="tn")) / 2
    for got in layer(view, time):
        torch.testing.assert_close(got, average, atol=1e-6, rtol=1e-6)


class _Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, axes):
        return x + self.inner(x, axes=axes)


def test_gradients_reach_the_block_through_both_streams():
    layer = TwoStreamBlock(MeanBlock(), _random_sync(SoftSync))
    streams = torch.randn(2, *GRID, DIM, requires_grad=True)
    out_view, out_time = layer(streams[0], streams[1], torch.randn(GRID[0], COND))
    (out_view.square().sum() + out_time.square().sum()).backward()
    assert (streams.grad.flatten(1).abs().amax(1) > 0).all()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_missing_cond_is_named():
    with pytest.raises(ValueError, match="^cond: "):
        TwoStreamBlock(MeanBlock(), SoftSync(DIM, COND))(*_streams())
