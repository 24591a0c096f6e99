"""Saving and loading models: nothing is lost but the precision of the file, and damage is named."""

import json

import pytest
import torch

from fourreal_kernels.model import GridPipeline, GridTransformer, ModelError, load_model, save_model
from fourreal_kernels.model.config import MODES
from tiny_models import random_model, tiny_config

pytest.importorskip("safetensors", reason="models are stored as safetensors files")


@pytest.fixture()
def saved(tmp_path):
    """A directory with a model, to be damaged."""
    save_model(random_model(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("mode", MODES)
def test_round_trip_within_half_precision(mode, tmp_path):
    model = random_model(mode=mode, sync_per_channel=mode == "two_stream_hard")
    GridPipeline(model).save_pretrained(tmp_path / "new" / "model")
    pipeline = GridPipeline.from_pretrained(tmp_path / "new" / "model")
    loaded = pipeline.model
    assert loaded.config == model.config and not loaded.training
    assert {path.name for path in (tmp_path / "new" / "model").iterdir()} == {"config.json", "model.safetensors"}
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor.half().float()), name
    clips = torch.rand(4, 3, 8, 12), torch.rand(3, 3, 8, 12)
    results = [p(*clips, steps=1, progress=False).frames for p in (GridPipeline(model), pipeline)]
    assert (results[0] - results[1]).abs().mean() < 0.01


def test_full_precision_on_request(tmp_path):
    model = random_model()
    save_model(model, tmp_path, dtype=torch.float32)
    for name, tensor in load_model(str(tmp_path)).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_saving_does_not_change_the_model(tmp_path):
    model = random_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_model(model, tmp_path)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name])


def _refused(path, file, message):
    with pytest.raises(ModelError, match=message) as raised:
        GridPipeline.from_pretrained(path)
    assert str(path / file) in str(raised.value)
    assert str(raised.value).startswith("model: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["nonsense", "", "/no/such/model"])
def test_unknown_names_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="^model: "):
        load_model(name)


def test_a_file_is_not_a_model(saved):
    with pytest.raises(ModelError, match="neither 'bundled' nor a directory"):
        load_model(saved / "model.safetensors")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_missing_files_are_named(saved, file):
    (saved / file).unlink()
    _refused(saved, file, "is missing")


@pytest.mark.parametrize("kept", [0, 5, 200, -1, -1000])
def test_truncated_weights_are_named(saved, kept):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    _refused(saved, "model.safetensors", "is truncated or not a safetensors file")


def test_other_files_are_not_weights(saved):
    (saved / "model.safetensors").write_text("weights")
    _refused(saved, "model.safetensors", "is truncated or not a safetensors file")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(saved, value):
    model = random_model()
    with torch.no_grad():
        model.context_embedding[0, 0] = value
    save_model(model, saved)
    _refused(saved, "model.safetensors", "context_embedding holds NaN or infinite values")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a valid configuration"),
        ("[]", "is not a valid configuration"),
        ("3", "is not a valid configuration"),
        (json.dumps(tiny_config().to_dict() | {"layers": 3}), "unknown settings layers"),
        (json.dumps(tiny_config().to_dict() | {"mode": "soft"}), "mode: got 'soft'"),
        (json.dumps(tiny_config().to_dict() | {"heads": 6}), "head_dim: got 2"),
    ],
)
def test_bad_configurations_are_named(saved, text, message):
    (saved / "config.json").write_text(text)
    _refused(saved, "config.json", message)


@pytest.mark.parametrize(
    "changes", [{"dim": 24}, {"depth": 3}, {"depth": 1}, {"mode": "two_stream_hard"}, {"mode": "fused"}]
)
def test_weights_that_do_not_fit_the_configuration_are_named(saved, changes):
    (saved / "config.json").write_text(json.dumps(tiny_config(**changes).to_dict()))
    _refused(saved, "model.safetensors", "do not fit its config.json")


def test_a_loaded_model_goes_on_training(saved):
    model = load_model(saved)
    assert isinstance(model, GridTransformer)
    assert all(parameter.requires_grad for parameter in model.parameters())
