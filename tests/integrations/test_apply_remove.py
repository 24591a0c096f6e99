"""What applying to a model changes in it, and that all of it is taken back."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to, load_sync, remove_from, save_sync, sync_layers
from tiny_models import perturb
from video_models import BATCH, CHANNELS, HEIGHT, LTX, TIMES, WIDTH, Wan, conditions, grid_latents

families = pytest.mark.parametrize("family", [Wan(), LTX()], ids=["Wan", "LTX"])
modes = pytest.mark.parametrize("mode", ["time", "sequential", "fused", "two_stream"])


def _random_sync_model(family, **options):
    model = family.model()
    apply_to(model, "two_stream", **options)
    perturb(sync_layers(model).parameters())
    return model


def _trace(model):
    """Everything an integration could leave behind in any module."""
    return {
        name: (
            sorted(key for key in vars(module) if key != "processor"),
            type(vars(module).get("processor")),
            *(len(vars(module)[key]) for key in vars(module) if key.endswith("_hooks")),
        )
        for name, module in model.named_modules()
    }


@families
@modes
def test_remove_restores_the_model(family, mode):
    model, given = family.model(), conditions()
    next(model.parameters()).requires_grad_(False)
    video = torch.randn(BATCH, CHANNELS, TIMES, HEIGHT, WIDTH)
    with torch.no_grad():
        expected = family.video(model, video, *given)
    processors = dict(model.attn_processors)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    trace, weights = _trace(model), {name: x.clone() for name, x in model.state_dict().items()}
    for _ in range(2):
        apply_to(model, mode)
        with torch.no_grad():
            family.grid(model, grid_latents(), *given)
        assert _trace(model) != trace
        remove_from(model)
        assert _trace(model) == trace
    assert model.attn_processors == processors
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trainable
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(family.video(model, video, *given), expected)


@families
@modes
def test_a_deep_copy_is_a_model_of_its_own(family, mode):
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, mode)
    copied = deepcopy(model)
    with torch.no_grad():
        expected = family.grid(model, grid, *given)
        assert torch.equal(family.grid(copied, grid, *given), expected)
        remove_from(copied)
        assert _trace(copied) == _trace(family.model())
        perturb(copied.parameters())
        assert torch.equal(family.grid(model, grid, *given), expected)


@families
@modes
def test_state_dict_keys_are_those_of_the_base(family, mode):
    model = family.model()
    keys = list(model.state_dict())
    apply_to(model, mode)
    assert list(model.state_dict()) == keys
    assert model.load_state_dict(family.model().state_dict()).missing_keys == []


@families
def test_a_missing_weight_is_still_reported(family):
    model = family.model()
    apply_to(model, "two_stream")
    weights = model.state_dict()
    lost = next(iter(weights))
    del weights[lost]
    assert model.load_state_dict(weights, strict=False).missing_keys == [lost]


@families
def test_only_sync_layers_train_and_every_one_gets_a_gradient(family):
    model = _random_sync_model(family)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {f"grid_sync.{name}" for name, _ in sync_layers(model).named_parameters()}
    family.grid(model, grid_latents(), *conditions()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trainable), name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name


@families
def test_with_grad_and_in_place_without_grad_agree(family):
    model, given, grid = _random_sync_model(family), conditions(), grid_latents()
    expected = family.grid(model, grid, *given).detach()
    with torch.no_grad():
        torch.testing.assert_close(family.grid(model, grid, *given), expected, rtol=1e-5, atol=1e-5)


@families
@modes
def test_gradient_checkpointing_gives_the_same_gradients(family, mode):
    """Another grid is run before the backward pass, which recomputes the first one."""
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, mode)
    if mode == "two_stream":
        perturb(sync_layers(model).parameters())
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad(set_to_none=True)
        if checkpointing:
            model.enable_gradient_checkpointing()
        loss = family.grid(model, grid, *given).square().mean()
        family.grid(model, grid_latents(2), *given)
        loss.backward()
        gradients.append({name: x.grad for name, x in model.named_parameters() if x.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


@families
def test_save_pretrained_writes_the_base_alone(family, tmp_path):
    pytest.importorskip("accelerate", reason="accelerate, which from_pretrained of Wan needs, is not installed")
    model, given, grid = _random_sync_model(family), conditions(), grid_latents()
    with torch.no_grad():
        expected = family.grid(model, grid, *given)
    model.save_pretrained(tmp_path)
    save_sync(model, tmp_path / "sync.safetensors")
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert list(loaded.state_dict()) == list(family.model().state_dict())
    apply_to(loaded, "two_stream")
    load_sync(loaded, tmp_path / "sync.safetensors")
    with torch.no_grad():
        assert torch.equal(family.grid(loaded, grid, *given), expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sync": "hard"}, "soft"),
        ({"sync_cond_dim": 3}, "sync_cond_dim"),
        ({"sync_per_channel": True}, "sync_per_channel"),
    ],
)
def test_sync_layers_of_other_sizes_are_refused(options, message, tmp_path):
    path = tmp_path / "sync.safetensors"
    save_sync(_random_sync_model(Wan()), path)
    model = _random_sync_model(Wan(), **options)
    before = {name: x.clone() for name, x in sync_layers(model).state_dict().items()}
    with pytest.raises(ValueError, match=f"^path: .*{message}"):
        load_sync(model, path)
    assert all(torch.equal(x, before[name]) for name, x in sync_layers(model).state_dict().items())


def test_a_missing_file_of_sync_layers_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="^path: .*nowhere"):
        load_sync(_random_sync_model(Wan()), tmp_path / "nowhere.safetensors")


@families
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_sync_layers_follow_the_dtype_of_the_model(family, dtype):
    model, given = family.model().to(dtype), conditions()
    apply_to(model, "two_stream", sync="hard", sync_per_channel=True)
    assert {parameter.dtype for parameter in sync_layers(model).parameters()} == {dtype}
    with torch.no_grad():
        out = family.grid(model, grid_latents().to(dtype), given[0], given[1].to(dtype))
    assert out.dtype == dtype and out.isfinite().all()


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@families
@modes
def test_under_autocast(family, mode):
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, mode)
    if mode == "two_stream":
        perturb(sync_layers(model).parameters())
    with torch.no_grad():
        expected = family.grid(model, grid, *given)
    with torch.autocast("cpu", torch.bfloat16):
        got = family.grid(model, grid, *given).float()
    assert (got - expected).abs().mean() < 0.03 * expected.abs().mean()
    got.square().mean().backward()
    trained = sync_layers(model) if mode == "two_stream" else model
    assert all(parameter.grad.isfinite().all() for parameter in trained.parameters())


@families
def test_float32_sync_layers_after_a_bfloat16_model(family):
    model, given = family.model().bfloat16(), conditions()
    apply_to(model, "two_stream")
    sync_layers(model).float()
    out = family.grid(model, grid_latents().bfloat16(), given[0], given[1].bfloat16())
    out.float().square().mean().backward()
    gradients = [parameter.grad for parameter in sync_layers(model).parameters()]
    assert out.dtype == torch.bfloat16 and all(gradient.dtype == torch.float32 for gradient in gradients)


@pytest.mark.parametrize(
    "family, mode",
    [
        (Wan(), "two_stream"),
        *(pytest.param(Wan(), mode, marks=pytest.mark.slow) for mode in ("time", "sequential", "fused")),
        *(pytest.param(LTX(), mode, marks=pytest.mark.slow) for mode in ("time", "sequential", "fused", "two_stream")),
    ],
)
def test_compiles_in_one_graph(family, mode):
    """The aot_eager backend traces forward and operators as inductor does, without its code generation."""
    model, given, grid = family.model(), conditions(), grid_latents()
    apply_to(model, mode)
    if mode == "two_stream":
        perturb(sync_layers(model).parameters())
    with torch.no_grad():
        expected = family.grid(model, grid, *given)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(family.grid(compiled, grid, *given), expected, rtol=1e-5, atol=1e-5)
