"""What is drawn for each kind of phase, and what is never drawn."""

from dataclasses import fields

import pytest
import torch

from fourreal_kernels.data import HELD_OUT_SEED, GridDataset, render_shard
from fourreal_kernels.model import cross_mask
from fourreal_kernels.training import Phase
from fourreal_kernels.training.batches import BatchSampler

SHAPE = (3, 16, 16)


def _sampler(folder, seed=0, **options):
    return BatchSampler(GridDataset(folder), torch.Generator().manual_seed(seed), **options)


def _drawn_indices(sampler, count):
    indices = []
    frames = sampler.dataset.frames

    def recorded(index):
        indices.append(index)
        return frames(index)

    sampler.dataset.frames = recorded
    for _ in range(count):
        sampler.draw(Phase("lines", samples="lines", batch=1))
    return indices


def test_excluded_grids_are_never_drawn(grids):
    indices = _drawn_indices(_sampler(grids, exclude=frozenset(range(4))), 60)
    assert set(indices) == {4, 5}


def test_held_out_seeds_are_never_drawn(grids, tmp_path):
    """Also of shards that appear while training runs."""
    for shard in grids.iterdir():
        (tmp_path / shard.name).write_bytes(shard.read_bytes())
    sampler = _sampler(tmp_path, exclude=frozenset(range(4)))
    late = dict(size=16, views=3, times=3, light_samples=0)
    render_shard(tmp_path / "c.safetensors", [HELD_OUT_SEED, HELD_OUT_SEED + 7], **late, allow_held_out=True)
    render_shard(tmp_path / "d.safetensors", [9], **late)
    assert sampler.dataset.refresh() == 3
    seeds = {sampler.dataset.seeds[index] for index in _drawn_indices(sampler, 80)}
    assert seeds == {4, 5, 9}


@pytest.mark.parametrize(("views", "times"), [(3, 3), (2, 3), (1, 2)])
def test_grids_are_sub_grids_with_the_first_view_and_timestep(grids, views, times):
    sampler = _sampler(grids)
    drawn = set()
    for _ in range(12):
        batch = sampler.draw(Phase("grids", views=views, times=times, batch=2))
        assert batch.frames.shape == (2, views, times, *SHAPE) and batch.streams == "both"
        assert batch.frames.abs().max() <= 1 and batch.frames.std() > 0.1
        assert torch.equal(batch.given, cross_mask(views, times).expand(2, -1, -1))
        for index, count in ((batch.view_index, views), (batch.time_index, times)):
            assert len(index) == count and index[0] == 0 and (index.diff() > 0).all() and index.max() < 3
        assert batch.flow.shape == (2, 2, views, times, 2, 16, 16)
        assert batch.visible.shape == (2, 2, views, times, 16, 16) and batch.visible.dtype == torch.bool
        drawn.add(tuple(batch.view_index.tolist()))
    assert len(drawn) == (2 if views == 2 else 1)


def test_frames_are_those_of_the_index(grids):
    """Each drawn frame is the stored frame of its view and timestep, up to mirroring and the order of the colours."""
    sampler = _sampler(grids, exclude=frozenset(range(1, 6)))
    stored = sampler.dataset.frames(0).float() / 127.5 - 1
    for _ in range(6):
        batch = sampler.draw(Phase("grids", views=2, times=2, batch=1))
        expected = stored[batch.view_index][:, batch.time_index].sum(2)
        grey = batch.frames[0].sum(2)
        assert any(torch.allclose(grey, x, atol=1e-5) for x in (expected, expected.flip(-1)))


def test_random_masks_give_any_subset_and_then_have_no_flow(grids):
    sampler = _sampler(grids)
    batches = [sampler.draw(Phase("grids", views=3, times=3, random_mask=1.0)) for _ in range(40)]
    masks = torch.stack([batch.given[0] for batch in batches])
    assert masks.flatten(1).any(1).all() and len({tuple(mask.flatten().tolist()) for mask in masks}) > 20
    assert not masks[:, 0, 0].all() and masks.float().mean() > 0.15
    crosses = (masks == cross_mask(3, 3)).flatten(1).all(1).tolist()
    assert all((batch.flow is not None) == cross for batch, cross in zip(batches, crosses, strict=True))


def test_part_of_the_masks_is_random(grids):
    sampler = _sampler(grids)
    masks = [sampler.draw(Phase("grids", views=3, times=3, random_mask=0.5)).given[0] for _ in range(40)]
    crosses = sum(torch.equal(mask, cross_mask(3, 3)) for mask in masks)
    assert 8 < crosses < 32


@pytest.mark.parametrize("random_mask", [0.0, 1.0])
def test_lines_are_single_videos_of_one_stream_with_frames_to_predict(grids, random_mask):
    sampler = _sampler(grids)
    streams = set()
    for _ in range(30):
        batch = sampler.draw(Phase("lines", samples="lines", batch=2, random_mask=random_mask))
        expected = (1, 3) if batch.streams == "time" else (3, 1)
        assert batch.frames.shape == (2, *expected, *SHAPE) and batch.given.shape == (2, *expected)
        assert batch.given.flatten(1).any(1).all() and (~batch.given).flatten(1).any(1).all()
        assert len(batch.view_index) == expected[0] and len(batch.time_index) == expected[1]
        assert batch.flow is None
        streams.add(batch.streams)
        if not random_mask:
            assert batch.given[:, 0, 0].all() and batch.given.sum() == 2
    assert streams == {"view", "time"}


def test_pseudo_4d_grids_are_made_of_single_clips(grids):
    batch = _sampler(grids).draw(Phase("pseudo", samples="pseudo4d", views=5, times=2, batch=2))
    assert batch.frames.shape == (2, 5, 2, *SHAPE) and batch.streams == "both"
    assert torch.equal(batch.given[0], cross_mask(5, 2)) and batch.flow is None
    assert batch.frames.min() >= -1 - 1e-5 and batch.frames.max() <= 1 + 1e-5
    between_views = (batch.frames[:, 1:] - batch.frames[:, :-1]).abs().mean((2, 3, 4, 5))
    assert (between_views > 1e-3).all()


def test_sigma_is_one_for_its_part_and_logit_normal_for_the_rest(grids):
    sampler = _sampler(grids)
    phase = Phase("lines", samples="lines", pure_noise=0.4, sigma_mean=-0.5, sigma_std=0.8)
    sigma = sampler._sigma(phase, 4000)
    assert ((sigma > 0) & (sigma <= 1)).all()
    assert 0.37 < (sigma == 1).float().mean() < 0.43
    logits = sigma[sigma < 1].logit()
    assert abs(logits.mean() + 0.5) < 0.08 and abs(logits.std() - 0.8) < 0.06
    assert (sampler._sigma(Phase("all", pure_noise=1.0), 50) == 1).all()


@pytest.mark.parametrize("samples", ["grids", "lines", "pseudo4d"])
def test_the_generator_is_all_the_state(grids, samples):
    phase = Phase("any", samples=samples, views=2, times=2, batch=2, random_mask=0.5)
    first = _sampler(grids, seed=3)
    first.draw(phase)
    second = _sampler(grids, seed=0)
    second.generator.set_state(first.generator.get_state())
    torch.manual_seed(11)
    batches = first.draw(phase), second.draw(phase)
    for field in fields(batches[0]):
        a, b = (getattr(batch, field.name) for batch in batches)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


def test_to_moves_every_tensor(grids):
    batch = _sampler(grids).draw(Phase("grids", views=2, times=2))
    moved = batch.to("meta")
    assert moved.streams == "both"
    tensors = [getattr(moved, field.name) for field in fields(moved) if field.name != "streams"]
    assert len(tensors) == 7 and all(tensor.device.type == "meta" for tensor in tensors)
