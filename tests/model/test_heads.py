"""Output heads: where they start, what absent sources weigh, and which pixels a token reaches."""

import math

import pytest
import torch

from fourreal_kernels.model.alignment import Alignment, unaligned
from fourreal_kernels.model.blocks import PatchEmbedding
from fourreal_kernels.model.conditioning import Sources
from fourreal_kernels.model.heads import DirectHead, WarpHead
from fourreal_kernels.model.matching import displace

DIM, PATCH, FEATURES = 6, 4, 5
GRID, HEIGHT, WIDTH = (2, 2, 3), 8, 12


def _sources(has_view=True, has_time=True):
    frames = torch.rand(3, *GRID, 3, HEIGHT, WIDTH) * 2 - 1
    present = [torch.full(GRID, value) for value in (has_view, has_time, has_view and has_time)]
    index = torch.zeros(GRID, dtype=torch.long)
    return Sources(*frames, *present, index, index)


def _inputs():
    tokens = torch.randn(*GRID, HEIGHT // PATCH * (WIDTH // PATCH), DIM)
    return tokens, torch.rand(*GRID, 3, HEIGHT, WIDTH) * 2 - 1


def test_warp_head_starts_as_nearly_the_mean_of_both_sources():
    sources = _sources()
    head = WarpHead(DIM, PATCH, FEATURES)
    tokens, frames = _inputs()
    prediction = head(tokens, frames, sources, unaligned(sources))
    assert not prediction.flow_same_view.any() and not prediction.flow_same_time.any()
    colour_weight = math.exp(-3) / (4 + math.exp(-3))
    assert colour_weight < 0.03
    expected = (1 - colour_weight) * (sources.same_view + sources.same_time) / 2
    torch.testing.assert_close(prediction.frames, expected, atol=1e-5, rtol=0)


def test_warp_head_starts_from_the_aligning_flows():
    sources = _sources()
    flows = torch.randn(2, *GRID, 2, HEIGHT, WIDTH)
    moved = [
        displace(x.flatten(0, 2), flow.flatten(0, 2), "bicubic").unflatten(0, GRID)
        for x, flow in zip((sources.same_view, sources.same_time), flows, strict=True)
    ]
    alignment = Alignment(*flows, torch.ones(*GRID, 1, HEIGHT, WIDTH), torch.rand(*GRID, 2, HEIGHT, WIDTH), *moved)
    prediction = WarpHead(DIM, PATCH, FEATURES)(*_inputs(), sources, alignment)
    assert torch.equal(prediction.flow_same_view, flows[0]) and torch.equal(prediction.flow_same_time, flows[1])
    colour_weight = math.exp(-3) / (4 + math.exp(-3))
    torch.testing.assert_close(prediction.frames, (1 - colour_weight) * (moved[0] + moved[1]) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("has_view", "has_time"), [(True, False), (False, True), (False, False)])
def test_absent_sources_have_no_weight(has_view, has_time):
    """Even where the mix would take nothing but them, and whatever they hold."""
    head = WarpHead(DIM, PATCH, FEATURES)
    with torch.no_grad():
        head.mix.bias.copy_(torch.tensor([50.0, 50.0, 50.0, 50.0, 0.0, 0.3, 0.2, 0.1]))
    sources = _sources(has_view, has_time)
    expected = torch.tensor([0.3, 0.2, 0.1])[:, None, None].expand_as(sources.corner)
    if has_view:
        expected = sources.same_view
    if has_time:
        expected = sources.same_time
    for name, present in (("same_view", has_view), ("same_time", has_time)):
        if not present:
            getattr(sources, name).fill_(1e3)
    prediction = head(*_inputs(), sources, unaligned(sources))
    torch.testing.assert_close(prediction.frames, expected, atol=1e-5, rtol=0)


def test_prediction_stays_between_sources_and_colour():
    head = WarpHead(DIM, PATCH, FEATURES)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        head.mix.weight[5:] = 0
        head.mix.bias[5:] = torch.tensor([0.9, -0.9, 0.0])
    sources = _sources()
    for source in (sources.same_view, sources.same_time):
        source.copy_(source[..., :1, :1].expand_as(source))  # one colour each: samples between pixels do not overshoot
    prediction = head(*_inputs(), sources, unaligned(sources))
    assert prediction.flow_same_view.abs().max() > 0.5
    assert prediction.frames.abs().max() <= 1 + 1e-5
    assert prediction.frames.std() > 0.1


def test_direct_head_predicts_no_flow_and_reads_no_source():
    head = DirectHead(DIM, PATCH, FEATURES)
    tokens, frames = _inputs()
    results = [head(tokens, frames, s, unaligned(s)) for s in (_sources(), _sources())]
    assert results[0].frames.shape == frames.shape
    assert results[0].flow_same_view is None and results[0].flow_same_time is None
    assert torch.equal(results[0].frames, results[1].frames)


@pytest.mark.parametrize(("head_type", "reach"), [(DirectHead, 2), (WarpHead, 3)])
def test_a_token_reaches_its_own_patch_and_the_width_of_the_convolutions_around(head_type, reach):
    """Also shows that tokens lie row after row: the frame is wider than high."""
    head = head_type(DIM, PATCH, FEATURES).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if head_type is WarpHead:
            head.flow[-1].weight.zero_()
            head.flow[-1].bias.zero_()
    sources = _sources()
    tokens, frames = (x.double() for x in _inputs())
    sources = Sources(*(x.double() if x.is_floating_point() else x for x in vars(sources).values()))
    token = 3  # the first column of the second row
    changed = tokens.clone()
    changed[0, 0, 1, token] += 1
    before, after = (head(x, frames, sources, unaligned(sources)).frames for x in (tokens, changed))
    touched = (before != after).any(3)
    expected = torch.zeros_like(touched)
    expected[0, 0, 1, PATCH - reach :, : PATCH + reach] = True
    assert torch.equal(touched, expected)


def test_a_pixel_reaches_the_tokens_whose_double_patch_holds_it():
    embed = PatchEmbedding(3, DIM, PATCH)
    frames = torch.rand(*GRID, 3, HEIGHT, WIDTH)
    for (y, x), tokens in {(0, 11): [2], (7, 0): [3], (0, 5): [0, 1], (4, 2): [0, 1, 3, 4]}.items():
        changed = frames.clone()
        changed[1, 1, 2, 0, y, x] += 1
        touched = (embed(frames) != embed(changed)).any(-1)
        expected = torch.zeros_like(touched)
        expected[1, 1, 2, tokens] = True
        assert torch.equal(touched, expected), (y, x)
