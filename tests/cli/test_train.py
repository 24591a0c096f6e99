"""``fourreal train``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fourreal_kernels
from fourreal_kernels.data.dataset import GridDataset
from fourreal_kernels.model import GridPipeline, load_model, save_model
from fourreal_kernels.training.config import bundled_recipes, load_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.json"
    model = {
        "views": 2, "times": 2, "height": 16, "width": 16, "dim": 24, "depth": 1, "heads": 2, "head_features": 4
    }  # fmt: skip
    phases = [{"name": "grids", "views": 2, "times": 2, "flow_weight": 0.1}]
    path.write_text(json.dumps({"description": "tiny", "model": model, "phases": phases}))
    return path


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_list(fourreal):
    printed = fourreal("train", "--list")
    assert all(name in printed for name in bundled_recipes())
    assert len(printed.splitlines()) == len(bundled_recipes())


def test_renders_trains_resumes_and_starts_from_a_model(fourreal, recipe, tmp_path, make_model):
    out = tmp_path / "run"
    arguments = ("train", "--recipe", recipe, "--workers", 1)
    printed = fourreal(*arguments, "--out", out, "--steps", 2, "--scenes", 8)
    assert "rendering 8 more" in printed and f"model: {out / 'model'}" in printed
    assert sorted(GridDataset(out / "data").seeds) == list(range(8))
    assert log_of(out)[-1]["step"] == 2
    first = load_model(out / "model").state_dict()

    printed = fourreal(*arguments, "--out", out, "--steps", 3, "--scenes", 8)
    assert "resuming" in printed and "rendering" not in printed
    assert log_of(out)[-1]["step"] == 3
    second = load_model(out / "model").state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)

    other, start = tmp_path / "other", make_model(load_recipe(recipe).model)
    save_model(start, tmp_path / "start")
    fourreal(*arguments, "--out", other, "--data", out / "data", "--init", tmp_path / "start", "--minutes", 1e-9)
    assert not (other / "data").exists()
    third = load_model(other / "model").state_dict()
    distance = {name: float((third[name] - tensor).abs().max()) for name, tensor in start.state_dict().items()}
    assert max(distance.values()) < 0.01
    assert float((third["embed.conv.bias"] - second["embed.conv.bias"]).abs().max()) > 0.1

    video = GridPipeline.from_pretrained(out / "model")(
        torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), progress=False
    )
    assert video.frames.shape == (2, 2, 3, 16, 16)


def test_renders_into_a_pool_and_resumes_on_the_named_backend(fourreal, recipe, tmp_path):
    arguments = ("train", "--recipe", recipe, "--out", tmp_path, "--pool", 2, "--reuse", 2, "--save-minutes", 1)
    printed = fourreal(*arguments, "--steps", 2, "--backend", "reference")
    assert "rendering" not in printed and not (tmp_path / "data").exists()
    assert "resuming" in fourreal(*arguments, "--steps", 4)
    assert log_of(tmp_path)[-1]["step"] == 4


def test_interrupt_ends_the_rendering_too(recipe, tmp_path):
    out = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": str(Path(fourreal_kernels.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fourreal_kernels.cli", "train", "--recipe", recipe, "--out", out]
    command += ["--minutes", "30", "--scenes", "100000", "--workers", "1", "--threads", "1"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    )
    try:
        # Not before: Python loses an interrupt that comes in a callback of its import machinery.
        deadline = time.monotonic() + 240
        while not ((out / "log.jsonl").is_file() and log_of(out)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.endswith("fourreal: interrupted\n") and "Traceback" not in errors
    marker = str(out / "data")
    commands = (path.read_bytes().decode(errors="replace") for path in _command_lines())
    assert not any(marker in command for command in commands)
    rendered = len(list((out / "data").iterdir()))
    time.sleep(0.5)
    assert len(list((out / "data").iterdir())) == rendered


def _heed_interrupts() -> None:
    """A test run in the background of a shell ignores interrupts, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _command_lines() -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.is_file()]


def test_rendering_that_fails_is_reported(fourreal, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("fourreal_kernels.cli.background.SCENES_PER_SHARD", 0)
    with pytest.raises(RuntimeError, match=r"rendering ended with status 1; .*render\.log says why"):
        fourreal("train", "--recipe", recipe, "--out", tmp_path, "--steps", 1, "--scenes", 8)
    assert "grids_per_shard" in (tmp_path / "render.log").read_text()
