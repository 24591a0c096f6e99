"""Shards: what they hold, resuming, refreshing, and the refusal of held-out seeds."""

import dataclasses

import pytest
import torch

pytest.importorskip("safetensors", reason="grid shards are safetensors files")

from fourreal_kernels.data import (  # noqa: E402
    GridDataset,
    flow_to_given,
    prerender,
    render,
    render_shard,
    sample_scene,
    scene_family,
)
from fourreal_kernels.data.stored_grid import flow_unit, pack_bits, unpack_bits  # noqa: E402

SMALL = {"size": 20, "views": 2, "times": 3, "supersample": 1, "light_samples": 1}


def _names(directory):
    return sorted(path.name for path in directory.iterdir())


def _wide_orbit():
    """Scenes in which points cross more than half of the image, beyond the range of stored flows."""
    return dataclasses.replace(scene_family("easy"), name="wide", orbit_degrees=(100.0, 110.0))


@pytest.mark.parametrize("family", [scene_family("easy"), _wide_orbit()], ids=lambda family: family.name)
def test_a_shard_holds_what_was_rendered(tmp_path, family):
    render_shard(tmp_path / "a.safetensors", [3, 4], family, **SMALL)
    dataset = GridDataset(tmp_path)
    assert len(dataset) == 2 and dataset.seeds == [3, 4]
    sample = dataset[1]
    grid = render(sample_scene(4, 2, 3, family), 20, 20, supersample=1, light_samples=1)
    assert sample.seed == 4 and sample.frames.dtype == torch.uint8
    torch.testing.assert_close(sample.frames / 255, grid.frames, atol=0.5 / 255 + 1e-6, rtol=0)
    expected = flow_to_given(grid)
    dropped = 0
    for source in ("freeze", "fixed"):
        flow, stored = (getattr(value, f"flow_from_{source}") for value in (expected, sample.flow))
        visible, kept = (getattr(value, f"visible_from_{source}") for value in (expected, sample.flow))
        within = (flow.abs() <= 127.4 * flow_unit(20)).all(2)
        assert torch.equal(kept, visible & within)
        assert (stored - flow).abs().amax(2)[within].max() <= flow_unit(20) / 2 + 1e-6
        dropped += int((visible & ~within).sum())
    assert (dropped > 0) == (family.name == "wide")
    assert _names(tmp_path) == ["a.safetensors"]


def test_packed_bits_round_trip():
    mask = torch.rand(3, 5, 21, generator=torch.Generator().manual_seed(0)) > 0.5
    packed = pack_bits(mask)
    assert packed.shape == (3, 5, 3)
    assert torch.equal(unpack_bits(packed, 21), mask)


def test_prerender_resumes_and_the_dataset_refreshes(tmp_path):
    options = {**SMALL, "workers": 1, "grids_per_shard": 2, "progress": False}
    render_shard(tmp_path / "seeds_0000010_0000011.safetensors", [10, 11], **SMALL)
    dataset = GridDataset(tmp_path)
    first = dataset[0].frames.clone()
    written = (tmp_path / "seeds_0000010_0000011.safetensors").stat().st_mtime_ns

    paths = prerender(tmp_path, range(8, 13), **options)
    assert [path.name for path in paths] == [
        "seeds_0000008_0000009.safetensors",
        "seeds_0000010_0000011.safetensors",
        "seeds_0000012_0000012.safetensors",
    ]
    assert paths[1].stat().st_mtime_ns == written
    assert len(dataset) == 2
    assert dataset.refresh() == 3 and len(dataset) == 5
    assert dataset.seeds == [10, 11, 8, 9, 12]
    assert torch.equal(dataset[0].frames, first)
    assert dataset.refresh() == 0
    with pytest.raises(IndexError, match="^index: got 5"):
        dataset[5]
    with pytest.raises(ValueError, match="^out_dir: "):
        prerender(tmp_path, range(8, 13), **{**options, "family": "hard"})


@pytest.mark.parametrize("write", [lambda path, **kw: render_shard(path / "a.safetensors", **kw), prerender])
def test_held_out_seeds_are_refused(tmp_path, write):
    with pytest.raises(ValueError, match="900001 is held out"):
        write(tmp_path, seeds=[5, 900_001])
    with pytest.raises(ValueError, match="^seeds: got none"):
        write(tmp_path, seeds=[])
    assert _names(tmp_path) == []


def test_held_out_seeds_can_be_rendered_for_evaluation(tmp_path):
    render_shard(tmp_path / "a.safetensors", [900_000], allow_held_out=True, **SMALL)
    assert GridDataset(tmp_path).seeds == [900_000]


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="^directory: "):
        GridDataset(tmp_path / "none")


@pytest.mark.parametrize("name", ["workers", "grids_per_shard"])
def test_bad_counts_are_named(tmp_path, name):
    with pytest.raises(ValueError, match=f"^{name}: got 0"):
        prerender(tmp_path, [1], **{name: 0})
