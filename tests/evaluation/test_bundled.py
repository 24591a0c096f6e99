"""The committed evaluation of the bundled model is what `fourreal evaluate` measures."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.ablation import markdown
from fourreal_kernels.evaluation.evaluate import METRICS, evaluate
from fourreal_kernels.model import GridPipeline

ROOT = Path(__file__).parents[2]
# Per scene, between machines, backends and versions of torch.
TOLERANCE = {"psnr": 0.05, "psnr_moving": 0.05, "ssim": 0.002, "gradient_energy_moving": 0.01}


@pytest.fixture(scope="module")
def committed():
    return json.loads((ROOT / "docs" / "quality" / "metrics.json").read_text())


def test_one_scene_of_the_committed_evaluation_is_reproduced(committed):
    settings = committed["settings"]
    seed = settings["seeds"][1]
    options = {"steps": settings["steps"], "sampler": settings["sampler"], "family": settings["family"]}
    found = evaluate(GridPipeline.from_pretrained("bundled"), [seed], progress=False, **options)["scenes"][seed]
    expected = committed["scenes"][str(seed)]
    assert set(found) == set(expected)
    for name, values in expected.items():
        for metric in METRICS:
            assert found[name][metric] == pytest.approx(values[metric], abs=TOLERANCE[metric]), (name, metric)


def test_readme_shows_the_means_of_the_committed_scenes(committed):
    readme = (ROOT / "README.md").read_text()
    for name, means in committed["mean"].items():
        scenes = [scene[name] for scene in committed["scenes"].values()]
        assert means == pytest.approx({metric: fmean(scene[metric] for scene in scenes) for metric in METRICS})
        assert f"| {name} | {means['psnr']:.2f} | {means['psnr_moving']:.2f} | {means['ssim']:.3f} |" in readme


def test_readme_shows_what_the_parts_add():
    parts = json.loads((ROOT / "docs" / "quality" / "parts.json").read_text())
    assert markdown(parts["mean"]) in (ROOT / "README.md").read_text()


def test_synchronisation_and_both_attentions_correct_the_flows():
    """Measured on held-out scenes with each of them switched off: what the two streams are there for."""
    mean = json.loads((ROOT / "docs" / "quality" / "parts.json").read_text())["mean"]
    whole = mean["whole model"]
    for part in ("attention along views", "attention along time", "attention", "synchronisation"):
        assert mean[f"without {part}"]["flow_same_time"] > 1.15 * whole["flow_same_time"], part
        assert mean[f"without {part}"]["psnr"] < whole["psnr"], part
