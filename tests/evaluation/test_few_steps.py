"""The default of 4 steps beside 40, and the documented tables beside the committed measurements."""

import json
from pathlib import Path

from benchmarks.quality import markdown
from fourreal_kernels.evaluation.evaluate import measure
from fourreal_kernels.evaluation.held_out import held_out_grid
from fourreal_kernels.model import DEFAULT_STEPS, GridPipeline

DOCS = Path(__file__).parents[2] / "docs"
LARGEST_LOSS = 0.5


def _committed(study):
    return json.loads((DOCS / "quality" / f"{study}.json").read_text())


def test_default_steps_lose_little_against_40():
    """A held-out scene at three views and timesteps of its arc and clip: four generated frames."""
    truth = held_out_grid(900_001, 3, 3, 64, 64)
    pipeline = GridPipeline.from_pretrained("bundled")
    few, many = (
        measure(pipeline(truth[0], truth[:, 0], steps=steps, progress=False).frames, truth)
        for steps in (DEFAULT_STEPS, 40)
    )
    assert few != many
    for metric in ("psnr", "psnr_moving"):
        assert few[metric] > many[metric] - LARGEST_LOSS, metric


def test_default_steps_lose_little_in_the_committed_measurement():
    mean = _committed("steps")["mean"][""]
    assert mean[f"euler {DEFAULT_STEPS}"]["psnr"] > mean["euler 40"]["psnr"] - LARGEST_LOSS


def test_documented_tables_are_those_of_the_committed_measurements():
    lines = (DOCS / "larger-grids.md").read_text().splitlines()
    documented = {line for line in lines if line.startswith("|")}
    for study in ("steps", "larger-grids", "given"):
        measured = set(markdown(_committed(study)["mean"]).splitlines())
        assert len(documented & measured) > 8, study
        documented -= measured
    assert documented == set()
