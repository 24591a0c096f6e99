"""The scripts in examples/ run as they are, and with a checkpoint from a folder."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from video_models import Wan

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in ("wan_grid", "train_sync"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("mode", ["time", "sequential", "fused", "two_stream"])
def test_wan_grid(mode, capsys):
    grid = import_module("wan_grid").main(["--mode", mode, "--views", "2", "--steps", "1"])
    assert grid.shape == (1, 2, 4, 4, 8, 12) and grid.isfinite().all()
    assert capsys.readouterr().out.startswith(f"{mode}: latents (1, 2, 4, 4, 8, 12) in ")


def test_train_sync_then_sample_with_a_checkpoint(tmp_path):
    """Losses fall; the saved layers change what the saved model samples."""
    pytest.importorskip("accelerate", reason="accelerate, which from_pretrained of Wan needs, is not installed")
    wan_grid, train_sync = import_module("wan_grid"), import_module("train_sync")
    model = Wan().model()
    model.save_pretrained(tmp_path / "transformer")
    torch.save(torch.randn(4, 3, 4, 2, 4, 4), tmp_path / "latents.pt")
    sync, checkpoint = str(tmp_path / "sync.safetensors"), ["--checkpoint", str(tmp_path)]
    losses = train_sync.main([*checkpoint, "--latents", str(tmp_path / "latents.pt"), "--steps", "2", "--out", sync])
    assert len(losses) == 2 and (tmp_path / "sync.safetensors").is_file()
    sampling = [*checkpoint, "--mode", "two_stream", "--steps", "1"]
    untrained = wan_grid.main(sampling)
    trained = wan_grid.main([*sampling, "--sync", sync])
    assert (trained - untrained).abs().max() > 1e-4


def test_training_lowers_the_loss(tmp_path):
    losses = import_module("train_sync").main(["--steps", "24", "--out", str(tmp_path / "sync.safetensors")])
    assert sum(losses[-6:]) < 0.95 * sum(losses[:6])
