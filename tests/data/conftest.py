"""One thread for the small tensor operations of these tests: a second one slows them on a busy machine."""

from collections.abc import Iterator

import pytest

from fourreal_kernels.data.threads import one_thread


@pytest.fixture(autouse=True)
def single_threaded() -> Iterator[None]:
    with one_thread():
        yield
