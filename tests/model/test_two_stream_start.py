"""At initialisation soft synchronisation is two independent streams, hard synchronisation their plain average.

All weights of the base are moved away from their starting values, so that the two streams differ and every part of
the blocks takes part; the synchronisation layers are as they start.
"""

import pytest
import torch

from fourreal_kernels.model.blocks import GridBlock
from tiny_models import base_parameters, model_inputs, perturb, tiny_model

VIEWS, TIMES = torch.arange(3), torch.arange(4)
both_paths = pytest.mark.parametrize("grad", [True, False], ids=["with grad", "in place"])


def _model_and_tokens(mode, per_channel):
    model = tiny_model(mode=mode, depth=3, sync_per_channel=per_channel).double()
    perturb(base_parameters(model))
    frames, given, sigma = model_inputs(model)
    with torch.no_grad():
        tokens = model._embed(frames, given, model.prepare(frames, given))
        cond = model.sigma_embedding(sigma)
    return model, tokens, cond


@both_paths
@pytest.mark.parametrize("per_channel", [False, True])
def test_soft_starts_as_two_independent_streams(per_channel, grad):
    model, tokens, cond = _model_and_tokens("two_stream_soft", per_channel)
    with torch.set_grad_enabled(grad):
        both = model._run(tokens, cond, "both", VIEWS, TIMES)
        view = model._run(tokens, cond, "view", VIEWS, TIMES)
        time = model._run(tokens, cond, "time", VIEWS, TIMES)
    torch.testing.assert_close(both, (view + time) / 2, atol=1e-11, rtol=1e-11)
    assert (view - time).abs().mean() > 0.1 and (view - tokens).abs().mean() > 0.1


@both_paths
@pytest.mark.parametrize("per_channel", [False, True])
def test_hard_starts_as_the_plain_average_after_every_layer(per_channel, grad):
    model, tokens, cond = _model_and_tokens("two_stream_hard", per_channel)
    context_view, context_time = model.context_embedding
    view_arguments = {"modulation": model._modulation(cond, context_view), "angles": model.rope("vn", VIEWS, TIMES)}
    time_arguments = {"modulation": model._modulation(cond, context_time), "angles": model.rope("tn", VIEWS, TIMES)}
    with torch.set_grad_enabled(grad):
        both = model._run(tokens, cond, "both", VIEWS, TIMES)
        average = tokens
        for block in model.blocks:
            y_view = block(average, axes="vn", **view_arguments)
            y_time = block(average, axes="tn", **time_arguments)
            assert (y_view - y_time).abs().mean() > 0.1
            average = (y_view + y_time) / 2
        uncoupled = sum(model._run(tokens, cond, streams, VIEWS, TIMES) for streams in ("view", "time")) / 2
    torch.testing.assert_close(both, average, atol=1e-11, rtol=1e-11)
    assert (both - uncoupled).abs().mean() > 0.01, "averaging only once would pass"


@pytest.mark.parametrize("mode", ["two_stream_soft", "two_stream_hard"])
def test_sigma_does_not_change_the_start_of_the_synchronisation(mode):
    """The modulation starts at one: what sigma changes, it changes through the base."""
    model, tokens, cond = _model_and_tokens(mode, False)
    before = model._run(tokens, cond, "both", VIEWS, TIMES)
    perturb(model.sync_cond.parameters())
    assert torch.equal(model._run(tokens, cond, "both", VIEWS, TIMES), before)
    perturb(model.sync.parameters())
    assert not torch.allclose(model._run(tokens, cond, "both", VIEWS, TIMES), before, atol=1e-3)


@both_paths
def test_hard_streams_are_one_tensor_from_block_to_block(grad, monkeypatch):
    """So that each block normalises them once; the results are those of two equal tensors."""
    model, tokens, cond = _model_and_tokens("two_stream_hard", False)
    perturb(model.parameters(), seed=2)
    two_stream, pairs = GridBlock.two_stream, []

    def apart(block, view, time, *arguments):
        pairs.append(view is time)
        return two_stream(block, view, time.clone(), *arguments)

    with torch.set_grad_enabled(grad):
        together = model._run(tokens, cond, "both", VIEWS, TIMES)
        monkeypatch.setattr(GridBlock, "two_stream", apart)
        assert torch.equal(model._run(tokens, cond, "both", VIEWS, TIMES), together)
    assert pairs == [True] * len(model.blocks)
