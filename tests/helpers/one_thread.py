"""One thread for tests made of many small tensor operations: a second one slows them on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fourreal_kernels.data.threads import one_thread


@pytest.fixture(autouse=True)
def single_threaded() -> Iterator[None]:
    with one_thread():
        yield
