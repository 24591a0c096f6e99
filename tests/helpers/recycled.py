"""What the tests of recycled memory share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fourreal_kernels import native
from fourreal_kernels.ops import fresh

MIB = 1 << 20


def recycles() -> bool:
    library = native.cpu_library()
    return library is not None and library.recycled_tensor((1,), (1,), (2, 32)) is not None


only_where_recycled = pytest.mark.skipif(
    not recycles(), reason="the CPU library is not built, or this build keeps no memory"
)


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    """Before and after the test."""
    fresh._recycling_library()  # the first result would set the limit
    native.cpu_library().set_kept_limit(512 * MIB)
    fresh.release_kept_memory()
    yield
    native.cpu_library().set_kept_limit(fresh._limit())
    fresh.release_kept_memory()


def new(mib: float) -> Tensor:
    """A large result."""
    return fresh.empty_like(torch.empty(int(mib * MIB) // 4))
