"""Huge pages for large results: advice on the pages inside the tensor, and on nothing else."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from fourreal_kernels import native
from fourreal_kernels.ops import fresh

_HUGE_PAGE = 2 << 20


def _advised(address: int) -> bool:
    """Whether the mapping of this address carries the advice."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            begin, end = (int(bound, 16) for bound in head.split("-"))
            inside = begin <= address < end
        elif inside and head == "VmFlags:":
            return "hg" in line.split()
    raise AssertionError("the address is in no mapping")


with_huge_pages = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has no advice on huge pages"
)


@with_huge_pages
@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_a_new_large_result_is_advised(limit, monkeypatch):
    monkeypatch.setattr(fresh, "_limit", lambda: limit)
    fresh._recycling_library.cache_clear()
    fresh.release_kept_memory()
    try:
        result = fresh.empty_like(torch.empty(48 << 18))
        assert _advised(result.data_ptr() + result.nbytes // 2)
    finally:
        fresh._recycling_library.cache_clear()


@with_huge_pages
def test_advice_covers_whole_huge_pages_inside_the_bytes():
    # A mapping of its own: the allocator's memory may carry the advice that an earlier result was given.
    mapping = mmap.mmap(-1, 12 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    x = torch.frombuffer(mapping, dtype=torch.uint8)
    first = -(-x.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
    native.cpu_library().prefer_huge_pages(first + 1, 3 * _HUGE_PAGE)
    assert not _advised(first)
    assert _advised(first + _HUGE_PAGE)
    assert _advised(first + 3 * _HUGE_PAGE - 1)
    assert not _advised(first + 3 * _HUGE_PAGE)
    assert not x.any()


def test_less_than_a_huge_page_is_left_alone():
    x = torch.arange(1000)
    native.cpu_library().prefer_huge_pages(x.data_ptr(), x.nbytes)
    assert torch.equal(x, torch.arange(1000))


@pytest.mark.parametrize("numel", [0, 5, (9 << 20) // 4])
def test_empty_like_keeps_shape_strides_and_dtype(numel):
    x = torch.zeros(2, numel).t()
    result, expected = fresh.empty_like(x), torch.empty_like(x)
    assert (result.shape, result.stride(), result.dtype) == (expected.shape, expected.stride(), expected.dtype)
    assert result.data_ptr() != x.data_ptr() or numel == 0
