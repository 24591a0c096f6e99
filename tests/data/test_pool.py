"""The pool of rendered grids: which scenes it holds when, and that it is what a data set of the same scenes is."""

import time
from dataclasses import fields

import pytest
import torch

from fourreal_kernels.data import render_shard
from fourreal_kernels.data.dataset import GridDataset
from fourreal_kernels.data.pool import GridPool, PoolSettings

SIZE, VIEWS, TIMES = 16, 2, 2


def _pool(rank: int = 0, ranks: int = 1, state=None, **settings) -> GridPool:
    options = {"capacity": 3, "uses": 2.0, "start": 2, "light_samples": 1, "threaded": False}
    pool = GridPool(PoolSettings(**options | settings), SIZE, VIEWS, TIMES, "cpu", kept=2, rank=rank, ranks=ranks)
    pool.fill(state)
    return pool


def test_grids_are_those_of_a_data_set(tmp_path):
    pool = _pool()
    render_shard(tmp_path / "a.safetensors", pool.seeds, size=SIZE, views=VIEWS, times=TIMES, light_samples=1)
    stored = GridDataset(tmp_path)
    assert pool.seeds == stored.seeds == [0, 1, 2, 3] and len(pool) == 4
    for index in range(4):
        mine, other = pool[index], stored[index]
        assert torch.equal(mine.frames, other.frames) and torch.equal(pool.frames(index), other.frames)
        assert all(torch.equal(*(getattr(x.flow, f.name) for x in (mine, other))) for f in fields(mine.flow))


def test_one_new_grid_per_uses_and_the_oldest_goes_but_never_those_kept():
    pool = _pool()
    seen = []
    for _ in range(8):
        pool.advance(1)
        seen.append(list(pool.seeds))
    assert seen == [
        [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 5, 3, 4],
        [0, 1, 5, 3, 4], [0, 1, 5, 6, 4], [0, 1, 5, 6, 4], [0, 1, 5, 6, 7],
    ]  # fmt: skip
    assert pool.advance(0) == 0


@pytest.mark.parametrize("draws", [1, 5, 9])
def test_a_pool_goes_on_from_its_state(draws):
    pool = _pool()
    pool.advance(draws)
    again = _pool(state=pool.state())
    for _ in range(3):
        assert pool.seeds == again.seeds
        assert all(torch.equal(pool.frames(i), again.frames(i)) for i in range(len(pool)))
        assert pool.advance(2) == again.advance(2)


def test_ranks_share_the_grids_kept_and_nothing_else():
    first, second = _pool(0, 2), _pool(1, 2)
    for _ in range(6):
        assert first.seeds[:2] == second.seeds[:2] == [0, 1]
        assert not set(first.seeds[2:]) & set(second.seeds[2:])
        first.advance(2), second.advance(2)


def test_seeds_end_before_those_held_out(monkeypatch):
    monkeypatch.setattr("fourreal_kernels.data.pool.HELD_OUT_SEED", 5)
    pool = _pool(uses=1.0)
    pool.advance(4)
    assert max(pool.seeds) == 4 and pool.seeds[:2] == [0, 1]


def test_a_thread_renders_ahead_until_closed():
    pool = _pool(threaded=True, uses=1.0)
    try:
        deadline = time.monotonic() + 60
        while len(pool) < 5 and time.monotonic() < deadline:
            pool.advance(0)
            time.sleep(0.01)
        assert pool.seeds == [0, 1, 2, 3, 4]
    finally:
        pool.close()
    assert not pool._ahead._thread.is_alive()


def test_what_fails_in_the_thread_is_raised(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no such scene")

    pool = _pool(threaded=True)
    monkeypatch.setattr("fourreal_kernels.data.pool.render_stored", fail)
    try:
        deadline = time.monotonic() + 60
        with pytest.raises(RuntimeError, match="no such scene"):
            while time.monotonic() < deadline:
                pool.advance(1)
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"capacity": 0}, "capacity: got 0"), ({"uses": 0.5}, "uses: got 0.5"), ({"start": 4}, "start: got 4")],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        _pool(**options)
