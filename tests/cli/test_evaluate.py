"""``fourreal evaluate``."""

from __future__ import annotations

import json

from PIL import Image

from fourreal_kernels.evaluation.evaluate import METRICS, PREDICTIONS


def test_files(fourreal, tiny_model, tmp_path):
    out = tmp_path / "out"
    printed = fourreal(
        "evaluate", "--model", tiny_model, "--out", out, "--scenes", 1, "--steps", 2, "--sampler", "heun",
        "--family", "hard", "--show", 900003,
    )  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["comparison.png", "metrics.json", "table.md"]
    assert (out / "table.md").read_text() in printed
    result = json.loads((out / "metrics.json").read_text())
    assert result["settings"]["seeds"] == [900000]
    assert (result["settings"]["steps"], result["settings"]["sampler"]) == (2, "heun")
    assert result["settings"]["family"] == "hard"
    for prediction in (*PREDICTIONS, "mean of both"):
        assert set(result["mean"][prediction]) == set(METRICS)
        assert result["mean"][prediction] == result["scenes"]["900000"][prediction]
        assert result["mean"][prediction]["psnr"] > 5
    with Image.open(out / "comparison.png") as sheet:
        assert sheet.width > 2 * 3 * 16
