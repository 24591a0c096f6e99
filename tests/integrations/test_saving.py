"""Saved base models and synchronisation layers."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to, load_sync, save_sync, sync_layers
from transformer_families import families, random_sync_model
from video_models import Wan, conditions, grid_latents


@families
def test_save_pretrained_writes_the_base_alone(family, tmp_path):
    pytest.importorskip("accelerate", reason="accelerate, which from_pretrained of Wan needs, is not installed")
    model, given, grid = random_sync_model(family), conditions(), grid_latents()
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
    save_sync(random_sync_model(Wan()), path)
    model = random_sync_model(Wan(), **options)
    before = {name: x.clone() for name, x in sync_layers(model).state_dict().items()}
    with pytest.raises(ValueError, match=f"^path: .*{message}"):
        load_sync(model, path)
    assert all(torch.equal(x, before[name]) for name, x in sync_layers(model).state_dict().items())


def test_a_missing_file_of_sync_layers_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="^path: .*nowhere"):
        load_sync(random_sync_model(Wan()), tmp_path / "nowhere.safetensors")
