"""SVD and AnimateDiff with this library's temporal attention, against the untouched models."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to, remove_from
from temporal_unets import SVD, AnimateDiff
from tiny_models import perturb
from video_models import relative_error, trace

families = pytest.mark.parametrize("family", [SVD(), AnimateDiff()], ids=["SVD", "AnimateDiff"])


def _model(family):
    torch.manual_seed(0)
    model = family.build().eval()
    perturb(model.parameters(), 0.02)
    return model


def _gradients(model, out):
    out.square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@families
def test_time_is_the_untouched_model_forward_and_gradients(family):
    model, inputs = _model(family), family.inputs()
    expected = model(*inputs, return_dict=False)[0]
    expected_gradients = _gradients(model, expected)
    model.zero_grad(set_to_none=True)
    processors = dict(model.attn_processors)
    apply_to(model, "time")
    changed = [name for name, processor in model.attn_processors.items() if processor is not processors[name]]
    assert changed and all("temporal" in name or "motion" in name for name in changed)
    got = model(*inputs, return_dict=False)[0]
    assert relative_error(got, expected) <= 1e-5
    largest = max(gradient.abs().max() for gradient in expected_gradients.values() if gradient is not None)
    for name, gradient in _gradients(model, got).items():
        # The bias before a group norm of few channels has hardly a gradient but rounding.
        reference = expected_gradients[name]
        tolerance = 1e-5 * max(reference.abs().max(), 1e-2 * largest)
        assert (gradient - reference).abs().max() <= tolerance, name


@families
def test_every_temporal_attention_runs_by_the_operator(family, monkeypatch):
    from fourreal_kernels.integrations.diffusers import temporal

    calls, attention = [], temporal.axis_attention
    monkeypatch.setattr(
        temporal, "axis_attention", lambda q, k, v, axes, **rest: calls.append(axes) or attention(q, k, v, axes, **rest)
    )
    model, inputs = _model(family), family.inputs()
    apply_to(model)
    with torch.no_grad():
        model(*inputs)
    name = family.block_name
    blocks = [
        path for path, module in model.named_modules()
        if type(module).__name__ == name and (name.startswith("Temporal") or "motion_modules" in path)
    ]
    assert calls == ["t"] * (len(blocks) * family.temporal_per_block) and calls


@families
def test_remove_restores_the_model(family):
    """Also a deep copy's, and without a change to the other one."""
    model, inputs = _model(family), family.inputs()
    keys, processors, before = list(model.state_dict()), dict(model.attn_processors), trace(model)
    with torch.no_grad():
        expected = model(*inputs, return_dict=False)[0]
        apply_to(model)
        assert list(model.state_dict()) == keys and trace(model) != before
        changed, copied = model(*inputs, return_dict=False)[0], deepcopy(model)
        assert torch.equal(copied(*inputs, return_dict=False)[0], changed)
        remove_from(model)
        assert model.attn_processors == processors and trace(model) == before
        assert torch.equal(model(*inputs, return_dict=False)[0], expected)
        assert torch.equal(copied(*inputs, return_dict=False)[0], changed)


def test_chunked_feed_forward_is_obeyed():
    model, inputs = _model(SVD()), SVD().inputs()
    model.enable_forward_chunking(chunk_size=1, dim=1)
    with torch.no_grad():
        expected = model(*inputs, return_dict=False)[0]
        apply_to(model)
        assert relative_error(model(*inputs, return_dict=False)[0], expected) <= 1e-5


@families
def test_gradient_checkpointing_and_save_pretrained(family, tmp_path):
    model, inputs = _model(family), family.inputs()
    apply_to(model)
    expected = model(*inputs, return_dict=False)[0]
    gradients = _gradients(model, expected)
    model.zero_grad(set_to_none=True)
    model.enable_gradient_checkpointing()
    for name, gradient in _gradients(model, model(*inputs, return_dict=False)[0]).items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-5, atol=1e-5, msg=name)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    apply_to(loaded)
    with torch.no_grad():
        assert relative_error(loaded(*inputs, return_dict=False)[0], expected.detach()) <= 1e-6


@families
def test_grid_modes_are_refused(family):
    model = family.build()
    for mode in ("sequential", "fused", "two_stream"):
        with pytest.raises(NotImplementedError, match=f"^mode: got '{mode}', but UNet.* supports 'time'"):
            apply_to(model, mode)


@families
def test_views_are_refused(family):
    model, (sample, *others) = _model(family), family.inputs()
    with pytest.raises(ValueError, match="^views: got 3, expected None.*views of a grid as samples"):
        apply_to(model, views=3)
    apply_to(model)
    with pytest.raises(ValueError, match=r"^sample: got 6 dims .*views of a grid as samples, \(B \* V"):
        model(sample[:, None], *others)


@pytest.mark.slow
@families
def test_compiles_in_one_graph(family):
    model, inputs = _model(family), family.inputs()
    apply_to(model)
    with torch.no_grad():
        expected = model(*inputs, return_dict=False)[0]
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert relative_error(compiled(*inputs, return_dict=False)[0], expected) <= 1e-5
