"""Adapters: nothing at the start, as many weights as soft synchronisation, for single streams only."""

import pytest
import torch

from tiny_models import model_inputs, perturb, random_model, tiny_config, tiny_model

single_streams = pytest.mark.parametrize("mode", ["sequential", "fused"])


@single_streams
def test_adapters_start_as_nothing_and_then_matter(mode):
    model, plain = tiny_model(mode=mode, adapters=True), tiny_model(mode=mode)
    perturb(plain.parameters())
    model.load_state_dict(plain.state_dict(), strict=False)
    inputs = model_inputs(model)
    expected = plain(*inputs).frames
    torch.testing.assert_close(model(*inputs).frames, expected)
    perturb(model.sync_parameters())
    assert not torch.allclose(model(*inputs).frames, expected, atol=1e-3)


@single_streams
@pytest.mark.parametrize("streams", ["view", "time"])
def test_the_base_alone_goes_past_the_adapters(mode, streams):
    model = random_model(mode=mode, adapters=True)
    inputs = model_inputs(model)
    expected = model(*inputs, streams=streams).frames
    perturb(model.sync_parameters())
    assert torch.equal(model(*inputs, streams=streams).frames, expected)


@single_streams
def test_sigma_modulates_adapters_by_sample(mode):
    model = random_model(mode=mode, adapters=True).double()
    frames, given, sigma = model_inputs(model)
    together = model(frames, given, sigma).frames
    alone = [model(frames[i : i + 1], given[i : i + 1], sigma[i : i + 1]).frames for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone))
    model.sync[0].modulation.weight.data.zero_()
    assert not torch.allclose(model(frames, given, sigma).frames, together)


@single_streams
def test_adapters_have_the_matrices_of_soft_synchronisation(mode):
    def matrices(model):
        hidden = [p for p in model.sync.parameters() if p.ndim == 2 and model.config.sync_cond_dim not in p.shape]
        return sum(p.numel() for p in hidden)

    model = random_model(mode=mode, adapters=True)
    assert matrices(model) == matrices(random_model()) == 4 * model.config.depth * model.config.dim**2
    assert {id(p) for p in model.sync_parameters()} == {
        id(p) for name, p in model.named_parameters() if name.startswith(("sync.", "sync_cond."))
    }


@single_streams
def test_every_adapter_has_a_gradient(mode):
    model = random_model(mode=mode, adapters=True)
    model(*model_inputs(model)).frames.square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in model.sync_parameters())


def test_two_streams_have_synchronisation_instead():
    with pytest.raises(ValueError, match="^adapters: got True with mode two_stream_soft, expected a single stream"):
        tiny_config(adapters=True)
