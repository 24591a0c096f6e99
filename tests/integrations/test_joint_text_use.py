"""Models whose text and video tokens share one softmax: training, autocast, compilation and what is refused."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to
from joint_models import TOLERANCE, CogVideoX, HunyuanVideo, assert_close, gradients
from video_models import TIMES, VIEWS, conditions, grid_latents, relative_error

families = pytest.mark.parametrize("family", [CogVideoX(), HunyuanVideo()], ids=["CogVideoX", "HunyuanVideo"])
modes = pytest.mark.parametrize("mode", ["time", "sequential", "fused", "two_stream"])


@families
@modes
def test_gradient_checkpointing_gives_the_same_gradients(family, mode):
    """Another grid is run before the backward pass, which recomputes the first one."""
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, mode)
    expected = gradients(model, family.grid(model, grid, *given))
    model.enable_gradient_checkpointing()
    out = family.grid(model, grid, *given)
    family.grid(model, grid_latents(2), *given)
    trained = {name: gradient for name, gradient in expected.items() if gradient is not None}
    got = gradients(model, out)
    assert_close({name: got[name] for name in trained}, trained)


@families
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@modes
def test_under_autocast(family, mode):
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, mode)
    with torch.no_grad():
        expected = family.grid(model, grid, *given)
    with torch.autocast("cpu", torch.bfloat16):
        got = family.grid(model, grid, *given).float()
    assert (got - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["time", "fused"])
def test_compiles_in_one_graph(mode):
    """CogVideoX; the lengths of the texts of HunyuanVideo are read from its mask, which ends a graph."""
    family, given, grid = CogVideoX(), conditions(), grid_latents()
    model, rotary = family.model(), family.rotary(VIEWS * TIMES)
    apply_to(model, mode)
    with torch.no_grad():
        expected = family.grid(model, grid, *given)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        got = compiled(grid, given[1], given[0], image_rotary_emb=rotary, return_dict=False)[0]
    assert relative_error(got, expected) <= TOLERANCE


@pytest.mark.parametrize(
    "family, changes, message",
    [
        (CogVideoX(), {"use_rotary_positional_embeddings": False}, "use_rotary_positional_embeddings=True"),
        (HunyuanVideo(), {"image_condition_type": "token_replace"}, "'latent_concat'"),
    ],
)
def test_variants_that_are_refused(family, changes, message):
    with pytest.raises(NotImplementedError, match=f"^model: got .*{message}"):
        apply_to(family.build(**changes))


@pytest.mark.parametrize("rows", [None, VIEWS * TIMES - 1])
def test_rotary_positions_for_too_few_frames(rows):
    model, (steps, text), family = CogVideoX().model(), conditions(), CogVideoX()
    apply_to(model, "fused")
    with pytest.raises(ValueError, match="^image_rotary_emb: got .*at least 12 frames of 6 tokens.*V \\* T"):
        model(grid_latents(), text, steps, image_rotary_emb=rows and family.rotary(rows))


@pytest.mark.parametrize("mask", [[[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], [[0, 1, 1, 1, 1]] * 2, [[0] * 5] * 2])
def test_masks_that_are_no_common_length(mask):
    model, (steps, text) = HunyuanVideo().model(), conditions()
    apply_to(model, "time")
    with pytest.raises(ValueError, match="^encoder_attention_mask: got .*one at a time"):
        model(grid_latents(), steps, text, torch.tensor(mask), text[:, 0])
