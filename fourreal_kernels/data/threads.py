"""Thread count for work made of many small tensor operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread(active: bool = True) -> Iterator[None]:
    """Run torch's CPU operations in one thread, then restore the number; does nothing unless `active`.

    Operations on a few ten thousand values lose far more to a second thread than they gain, most of all on a
    machine whose cores are busy.
    """
    threads = torch.get_num_threads()
    if not active or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
