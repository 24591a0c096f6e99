"""Synchronisation layers: where they start, what sigma modulates, gradients, and the in-place form."""

import pytest
import torch

from fourreal_kernels.nn import HardSync, SoftSync
from tiny_models import perturb

DIM, COND = 7, 5
GRID = (3, 2, 2, 4)
KINDS = [(HardSync, False), (HardSync, True), (SoftSync, False), (SoftSync, True)]
KIND_NAMES = ["hard", "hard per channel", "soft", "soft per channel"]
every_kind = pytest.mark.parametrize(("kind", "per_channel"), KINDS, ids=KIND_NAMES)


def _streams(dtype=torch.float32):
    return torch.randn(2, *GRID, DIM, dtype=dtype).unbind(0)


def _random_sync(kind, per_channel, cond_dim=COND, dtype=torch.float32):
    sync = kind(DIM, cond_dim, per_channel=per_channel).to(dtype)
    perturb(sync.parameters())
    return sync


def _dense_weight(sync):
    """The weight as a matrix ``(outputs, 2C)``."""
    if sync.weight.ndim == 2 and sync.weight.shape[-1] == 2 * DIM:
        return sync.weight
    blocks = sync.weight.view(-1, 2, DIM)
    return torch.cat([torch.cat([w.diag() for w in out], dim=1) for out in blocks])


def _by_formula(sync, view, time, cond):
    """Sample by sample, token by token: y = gate * (W (s * z) + b)."""
    weight = _dense_weight(sync)
    new_view, new_time = torch.empty_like(view), torch.empty_like(time)
    for b in range(len(view)):
        modulation = 1 + sync.modulation.weight @ cond[b] + sync.modulation.bias
        scale, gate = modulation[: 2 * DIM], modulation[2 * DIM :]
        for index in torch.cartesian_prod(*map(torch.arange, GRID[1:])).tolist():
            at = (b, *index)
            z = scale * torch.cat([view[at], time[at]])
            change = gate * (weight @ z + sync.bias)
            if isinstance(sync, HardSync):
                new_view[at] = new_time[at] = change
            else:
                new_view[at], new_time[at] = view[at] + change[:DIM], time[at] + change[DIM:]
    return new_view, new_time


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("cond_dim", [None, COND])
def test_hard_starts_as_the_plain_average(cond_dim, per_channel):
    view, time = _streams()
    cond = None if cond_dim is None else torch.randn(GRID[0], COND)
    out_view, out_time = HardSync(DIM, cond_dim, per_channel=per_channel)(view, time, cond)
    assert torch.equal(out_view, (view + time) / 2)
    assert torch.equal(out_time, out_view)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("cond_dim", [None, COND])
def test_soft_starts_as_the_identity(cond_dim, per_channel):
    view, time = _streams()
    cond = None if cond_dim is None else torch.randn(GRID[0], COND)
    out_view, out_time = SoftSync(DIM, cond_dim, per_channel=per_channel)(view, time, cond)
    assert torch.equal(out_view, view) and torch.equal(out_time, time)


@every_kind
def test_follows_the_formula_with_a_modulation_of_its_own_for_each_sample(kind, per_channel):
    sync = _random_sync(kind, per_channel, dtype=torch.float64)
    view, time = _streams(torch.float64)
    cond = torch.randn(GRID[0], COND, dtype=torch.float64)
    with torch.no_grad():
        results, expected = sync(view, time, cond), _by_formula(sync, view, time, cond)
    for result, value in zip(results, expected, strict=True):
        torch.testing.assert_close(result, value, atol=1e-12, rtol=1e-12)


@every_kind
def test_cond_changes_its_own_sample_only(kind, per_channel):
    sync = _random_sync(kind, per_channel)
    view, time = _streams()
    cond = torch.randn(GRID[0], COND)
    other = cond.clone()
    other[1] += 1
    for before, after in zip(sync(view, time, cond), sync(view, time, other), strict=True):
        changed = (before != after).flatten(1).any(1)
        assert changed.tolist() == [False, True, False]


@every_kind
def test_in_place_equals_functional_bitwise(kind, per_channel):
    sync = _random_sync(kind, per_channel)
    view, time = _streams()
    kept = view.clone(), time.clone()
    cond = torch.randn(GRID[0], COND)
    with torch.no_grad():
        expected = sync(view, time, cond)
        assert torch.equal(view, kept[0]) and torch.equal(time, kept[1]), "the functional form wrote to its inputs"
        returned = sync(view, time, cond, inplace=True)
    assert returned[0] is view and returned[1] is time
    assert torch.equal(view, expected[0]) and torch.equal(time, expected[1])
    assert not torch.equal(view, kept[0])


@every_kind
def test_in_place_is_refused_while_gradients_are_recorded(kind, per_channel):
    sync = _random_sync(kind, per_channel)
    view, time = _streams()
    kept = view.clone(), time.clone()
    with pytest.raises(ValueError, match="requires grad"):
        sync(view, time, torch.randn(GRID[0], COND), inplace=True)
    assert torch.equal(view, kept[0]) and torch.equal(time, kept[1])


@every_kind
def test_gradients_reach_the_streams_the_weights_the_modulation_and_cond(kind, per_channel):
    sync = _random_sync(kind, per_channel, dtype=torch.float64)
    view, time = (stream.requires_grad_() for stream in torch.randn(2, 2, 1, 2, 1, DIM, dtype=torch.float64))
    cond = torch.randn(2, COND, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in sync.named_parameters()]
    assert names == ["weight", "bias", "modulation.weight", "modulation.bias"]

    def run(view, time, cond, *parameters):
        return torch.func.functional_call(sync, dict(zip(names, parameters, strict=True)), (view, time, cond))

    inputs = (view, time, cond, *sync.parameters())
    assert torch.autograd.gradcheck(run, inputs)
    gradients = torch.autograd.grad(sum(out.square().sum() for out in run(*inputs)), inputs)
    for name, gradient in zip(("view", "time", "cond", *names), gradients, strict=True):
        assert gradient.abs().max() > 1e-6, name


@pytest.mark.parametrize("kind", [HardSync, SoftSync])
def test_training_can_leave_the_start(kind):
    """At the start the modulation of a soft layer has no gradient, since its weights are zero; its weights have."""
    sync = kind(DIM, COND)
    view, time = _streams()
    out_view, out_time = sync(view, time, torch.randn(GRID[0], COND))
    (out_view.square().sum() + (out_time - 1).square().sum()).backward()
    assert sync.weight.grad.abs().max() > 0 and sync.bias.grad.abs().max() > 0


@pytest.mark.parametrize("kind", [HardSync, SoftSync])
def test_cond_is_required_exactly_when_there_is_a_modulation(kind):
    view, time = _streams()
    with pytest.raises(ValueError, match=r"^cond: got None, expected a \(B, cond_dim\) tensor"):
        kind(DIM, COND)(view, time)
    with pytest.raises(ValueError, match="^cond: got a tensor, expected None, since cond_dim is None"):
        kind(DIM)(view, time, torch.randn(GRID[0], COND))


@every_kind
def test_weights_have_the_shape_of_the_operator(kind, per_channel):
    expected = {"hard": (DIM, 2 * DIM), "hard per channel": (2, DIM),
                "soft": (2 * DIM, 2 * DIM), "soft per channel": (2, 2, DIM)}
    name = KIND_NAMES[KINDS.index((kind, per_channel))]
    assert kind(DIM, per_channel=per_channel).weight.shape == expected[name]
    assert kind(DIM, per_channel=per_channel).modulation is None
