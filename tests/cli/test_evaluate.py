"""``fourreal evaluate``."""

from __future__ import annotations

import hashlib
import json

import torch
from PIL import Image

from fourreal_kernels.cli import corruptions
from fourreal_kernels.evaluation.corruptions import CORRUPTIONS
from fourreal_kernels.evaluation.evaluate import METRICS, PREDICTIONS
from fourreal_kernels.evaluation.extractors import OFFICIAL


def test_files(fourreal, tiny_model, tmp_path):
    out = tmp_path / "out"
    printed = fourreal(
        "evaluate", "--model", tiny_model, "--out", out, "--scenes", 1, "--steps", 2, "--sampler", "heun",
        "--family", "hard", "--show", 900003, 900005,
    )  # fmt: skip
    sheets = ["comparison-900003.png", "comparison-900005.png"]
    files = [*sheets, "consistency.png", "metrics.json", "scenes.png", "table.md"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert (out / "table.md").read_text() in printed and "The paper's protocol" in printed
    result = json.loads((out / "metrics.json").read_text())
    assert result["settings"]["seeds"] == [900000]
    assert (result["settings"]["steps"], result["settings"]["sampler"]) == (2, "heun")
    assert result["settings"]["family"] == "hard"
    for prediction in (*PREDICTIONS, "mean of both"):
        assert set(result["mean"][prediction]) == set(METRICS)
        assert result["mean"][prediction] == result["scenes"]["900000"][prediction]
        assert result["mean"][prediction]["psnr"] > 5
    assert {"truth", "mean of both", *PREDICTIONS} <= set(result["geometry"]["mean"])
    pictures = [Image.open(out / name) for name in sheets]
    assert all(sheet.width > 2 * 3 * 16 for sheet in pictures)
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_image_metrics_alone(fourreal, tiny_model, tmp_path):
    fourreal("evaluate", "--model", tiny_model, "--out", tmp_path, "--scenes", 1, "--steps", 1, "--metrics", "image")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "comparison-900000.png", "metrics.json", "scenes.png", "table.md",
    ]  # fmt: skip
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert "geometry" not in result and "distances" not in result


def test_corruptions(fourreal, tmp_path, monkeypatch):
    monkeypatch.setattr(corruptions, "_GRID", {"views": 3, "times": 3, "height": 20, "width": 20})
    printed = fourreal("evaluate", "--corruptions", "--scenes", 4, "--out", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "corruptions.json", "corruptions.md", "corruptions.png",
    ]  # fmt: skip
    assert (tmp_path / "corruptions.md").read_text() in printed
    result = json.loads((tmp_path / "corruptions.json").read_text())
    assert result["settings"]["seeds"] == list(range(900_000, 900_004)) and result["flag_factor"] == 3
    assert set(result["flagged"]) == set(CORRUPTIONS)


def test_list_of_extractors_says_what_is_there(fourreal, tmp_path):
    (tmp_path / "i3d_pretrained_400.pt").write_bytes(b"weights")
    printed = fourreal("evaluate", "--list-extractors", "--weights", tmp_path)
    assert all(f"{name}: " in printed for name in OFFICIAL)
    digest = hashlib.sha256(b"weights").hexdigest()
    assert f"weights: {tmp_path / 'i3d_pretrained_400.pt'}, sha256 {digest} (not checked)" in printed
    assert f"weights: absent; go to {tmp_path / 'i3d_torchscript.pt'}" in printed


class Scripted(torch.nn.Module):
    """The call of the published TorchScript I3D."""

    def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = True):
        return x.mean([2, 3, 4])


def test_an_official_extractor_runs_from_the_command_line(fourreal, tiny_model, tmp_path):
    torch.jit.script(Scripted()).save(str(tmp_path / "i3d_torchscript.pt"))
    digest = hashlib.sha256((tmp_path / "i3d_torchscript.pt").read_bytes()).hexdigest()
    printed = fourreal(
        "evaluate", "--model", tiny_model, "--out", tmp_path / "out", "--scenes", 2, "--steps", 1, "--metrics", "image",
        "--extractor", "i3d-torchscript", "--weights", tmp_path, "--weights-sha256", f"i3d-torchscript={digest}",
    )  # fmt: skip
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows = result["distances"]
    assert {row["lines"] for row in rows} == {"time lines", "view lines", "diagonals"}
    assert all("other weights in the layout of I3D torchscript: 3 outputs" in row["label"] for row in rows)
    weights = result["extractors"]["I3D torchscript"]["weights"]
    assert (weights["sha256"], weights["checksum"]) == (digest, "given by the user") and digest in printed
