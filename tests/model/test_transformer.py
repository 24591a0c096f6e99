"""GridTransformer: every mode forwards and backwards, modes share one base, positions and masks matter."""

import pytest
import torch

from fourreal_kernels.model import GridTransformer
from fourreal_kernels.model.config import HEADS, MODES
from tiny_models import model_inputs, perturb, random_masks, random_model, tiny_config, tiny_model

every_mode = pytest.mark.parametrize("mode", MODES)
_SYNC_PREFIXES = ("sync.", "sync_cond.")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("per_channel", [False, True])
@every_mode
def test_forward_and_backward(mode, per_channel, head):
    """Finite predictions of every frame and a gradient for every parameter, under masks of every kind."""
    model = random_model(mode=mode, sync_per_channel=per_channel, head=head, matching=head == "warp")
    frames, given, sigma = model_inputs(model)
    assert not given[0, -1].any() and not given[0, :, -1].any() and given.any(2).any(1).all()
    prediction = model(frames, given, sigma)
    assert prediction.frames.shape == frames.shape
    assert (prediction.flow_same_view is None) == (head == "direct")
    assert prediction.frames.isfinite().all()
    prediction.frames.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@every_mode
def test_without_gradients_the_prediction_is_the_same(mode):
    model = random_model(mode=mode).double()
    inputs = model_inputs(model)
    kept = [tensor.clone() for tensor in inputs]
    with torch.no_grad():
        in_place = model(*inputs).frames
    torch.testing.assert_close(in_place, model(*inputs).frames.detach(), atol=1e-9, rtol=1e-9)
    for tensor, before in zip(inputs, kept, strict=True):
        assert torch.equal(tensor, before)


@every_mode
@pytest.mark.parametrize("streams", ["view", "time"])
def test_the_base_alone_is_the_same_model_in_every_mode(mode, streams):
    model = random_model(mode=mode)
    sequential = GridTransformer(tiny_config(mode="sequential"))
    sequential.load_state_dict(model.state_dict(), strict=mode in ("sequential", "fused"))
    inputs = model_inputs(model)
    results = [m(*inputs, streams=streams).frames for m in (model, sequential)]
    assert torch.equal(*results)
    assert not torch.allclose(results[0], model(*inputs).frames, atol=1e-3)


@every_mode
def test_samples_of_a_batch_do_not_mix(mode):
    model = random_model(mode=mode).double()
    frames, given, sigma = model_inputs(model, batch=3)
    together = model(frames, given, sigma).frames
    for b in range(3):
        alone = model(frames[b : b + 1], given[b : b + 1], sigma[b : b + 1]).frames
        torch.testing.assert_close(together[b : b + 1], alone, atol=1e-9, rtol=1e-9)


def _base_shapes(model):
    state = model.state_dict()
    return {name: tuple(t.shape) for name, t in state.items() if not name.startswith(_SYNC_PREFIXES)}


def test_every_mode_has_the_same_base():
    models = {mode: tiny_model(mode=mode) for mode in MODES}
    shapes = [_base_shapes(model) for model in models.values()]
    assert all(shape == shapes[0] for shape in shapes) and len(shapes[0]) > 20
    for mode, model in models.items():
        two_streams = mode.startswith("two_stream")
        sync_names = set(model.state_dict()) - set(shapes[0])
        assert bool(sync_names) == two_streams
        ids = {id(parameter) for parameter in model.sync_parameters()}
        assert {name for name, p in model.named_parameters() if id(p) in ids} == sync_names


@pytest.mark.parametrize("target", MODES)
@pytest.mark.parametrize("source", MODES)
def test_base_weights_load_across_modes(source, target):
    """Between the two kinds of synchronisation the names agree but not the shapes, so only the base is taken."""
    trained = random_model(mode=source)
    state = trained.state_dict()
    base = {name: state[name] for name in _base_shapes(trained)}
    model = tiny_model(mode=target)
    result = model.load_state_dict(state if source == target else base, strict=False)
    assert not result.unexpected_keys
    assert all(name.startswith(_SYNC_PREFIXES) for name in result.missing_keys)
    for name, tensor in base.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    if not target.startswith("two_stream"):
        unexpected = tiny_model(mode=target).load_state_dict(state, strict=False).unexpected_keys
        assert all(name.startswith(_SYNC_PREFIXES) for name in unexpected)


@every_mode
def test_positions_matter_by_their_spacing_only(mode):
    model = random_model(mode=mode).double()
    inputs = model_inputs(model)
    views, times = torch.arange(3), torch.arange(4)
    default = model(*inputs).frames
    assert torch.equal(default, model(*inputs, view_index=views, time_index=times).frames)
    shifted = model(*inputs, view_index=views + 3, time_index=times + 5).frames
    torch.testing.assert_close(shifted, default, atol=1e-9, rtol=1e-9)
    for spread in (dict(view_index=views * 2), dict(time_index=times * 2)):
        assert (model(*inputs, **spread).frames - default).abs().max() > 1e-3, spread


@every_mode
def test_sigma_mask_and_frame_order_matter(mode):
    model = random_model(mode=mode)
    frames, given, sigma = model_inputs(model)
    default = model(frames, given, sigma).frames
    others = {
        "sigma": model(frames, given, sigma / 2).frames,
        "given": model(frames, random_masks(2, seed=9), sigma).frames,
        "views": model(frames.flip(1), given.flip(1), sigma).frames.flip(1),
        "times": model(frames.flip(2), given.flip(2), sigma).frames.flip(2),
    }
    for name, other in others.items():
        assert (other - default).abs().max() > 1e-3, name


@every_mode
def test_contexts_tell_the_streams_apart(mode):
    """Fused attention has one stream, whose context is the mean of both."""
    model = random_model(mode=mode)
    inputs = model_inputs(model)
    with torch.no_grad():
        default = model(*inputs).frames
        model.context_embedding.copy_(model.context_embedding.flip(0))
        flipped = (model(*inputs).frames - default).abs().max()
        model.context_embedding[1] += 1
        other = (model(*inputs).frames - default).abs().max()
    assert flipped == 0 if mode == "fused" else flipped > 1e-3
    assert other > 1e-3


@every_mode
def test_preparing_the_given_frames_once_changes_nothing(mode):
    model = random_model(mode=mode)
    frames, given, sigma = model_inputs(model)
    prepared = model.prepare(frames, given)
    assert torch.equal(model(frames, given, sigma).frames, model(frames, given, sigma, prepared=prepared).frames)


@pytest.mark.parametrize("grid", [(1, 4), (3, 1), (1, 1), (5, 6)])
@every_mode
def test_other_grids_than_the_trained_one(mode, grid):
    model = random_model(mode=mode)
    frames = torch.rand(2, *grid, 3, 8, 12) * 2 - 1
    prediction = model(frames, random_masks(2, *grid, density=0.5), torch.tensor([0.5, 1.0]))
    assert prediction.frames.shape == frames.shape and prediction.frames.isfinite().all()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("frames", torch.zeros(2, 3, 4, 3, 8, 8)),
        ("frames", torch.zeros(3, 4, 3, 8, 12)),
        ("given", torch.zeros(2, 3, 4)),
        ("given", torch.zeros(2, 4, 3, dtype=torch.bool)),
        ("given", torch.zeros(3, 4, dtype=torch.bool)),
        ("sigma", torch.zeros(())),
        ("sigma", torch.zeros(3)),
        ("streams", "fixed"),
        ("view_index", torch.arange(1)),
        ("view_index", torch.arange(4)),
        ("time_index", torch.arange(3)),
        ("time_index", torch.arange(4)[:, None]),
    ],
)
def test_bad_arguments_are_named(argument, value):
    model = tiny_model()
    arguments = dict(zip(("frames", "given", "sigma"), model_inputs(model), strict=True))
    with pytest.raises(ValueError, match=f"^{argument}: got .*expected"):
        model(**arguments | {argument: value})


def test_a_copy_is_independent():
    """The averaged weights of training are a deep copy: its layers must be its own."""
    import copy

    model = random_model(mode="two_stream_soft")
    twin = copy.deepcopy(model)
    inputs = model_inputs(model)
    before = twin(*inputs).frames
    perturb(model.parameters(), seed=7)
    assert torch.equal(twin(*inputs).frames, before)
    perturb(twin.parameters(), seed=7)
    assert torch.equal(twin(*inputs).frames, model(*inputs).frames)


@every_mode
def test_the_head_can_leave_out_given_frames(mode):
    model = random_model(mode=mode).double()
    frames, given, sigma = model_inputs(model)
    everywhere, missing = model(frames, given, sigma), model(frames, given, sigma, only_missing=True)
    torch.testing.assert_close(missing.frames[~given], everywhere.frames[~given], atol=1e-9, rtol=1e-9)
    assert torch.equal(missing.frames[given], frames[given]) and missing.flow_same_view is None


def test_a_direct_head_can_leave_out_given_frames():
    model = random_model(head="direct").double()
    frames, given, sigma = model_inputs(model)
    missing = model(frames, given, sigma, only_missing=True).frames
    torch.testing.assert_close(missing[~given], model(frames, given, sigma).frames[~given], atol=1e-9, rtol=1e-9)
    everything_given = torch.ones_like(given)
    assert torch.equal(model(frames, everything_given, sigma, only_missing=True).frames, frames)
