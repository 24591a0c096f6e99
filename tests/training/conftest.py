"""Fixtures of these tests: a small data set, and one thread."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourreal_kernels.data import render_shard
from fourreal_kernels.data.threads import one_thread
from one_thread import single_threaded  # noqa: F401

pytest.importorskip("safetensors", reason="training data and states are safetensors files")


@pytest.fixture(scope="session")
def grids(tmp_path_factory) -> Path:
    """Two shards with six grids of 3 x 3 frames of 16 x 16 pixels."""
    folder = tmp_path_factory.mktemp("grids")
    with one_thread():
        for name, seeds in (("a", [0, 1, 2]), ("b", [3, 4, 5])):
            render_shard(folder / f"{name}.safetensors", seeds, size=16, views=3, times=3, light_samples=1)
    return folder
