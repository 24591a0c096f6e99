"""Memory of large results on the CPU: kept when they are freed, handed out again, and never twice at once."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import fourreal_kernels
from fourreal_kernels import native
from fourreal_kernels.ops import fresh
from recycled import MIB, new, nothing_kept, only_where_recycled  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [only_where_recycled, pytest.mark.usefixtures("nothing_kept")]


def page_faults_of_filling(x: torch.Tensor) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x.fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_handed_out_again_without_page_faults():
    first = new(40)
    address, faults = first.data_ptr(), page_faults_of_filling(first)
    del first
    again = new(40)
    assert again.data_ptr() == address
    assert faults >= 20 > 10 > page_faults_of_filling(again)  # a fault for every 2 MiB at least


def test_a_live_result_is_not_handed_out():
    live = [new(2).fill_(index) for index in range(4)]
    for index in (1, 3):
        view = live[index][:10]
        live[index] = view  # the memory lives as long as any view
    others = [new(2).fill_(9) for _ in range(4)]
    spans = sorted((x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) for x in live + others)
    assert all(begin + size <= after for (begin, size), (after, _) in zip(spans, spans[1:], strict=False))
    assert [int(x[0]) for x in live] == [0, 1, 2, 3]


def test_best_fit_with_bounded_waste():
    sizes = (9, 10, 32)
    kept = {size: new(size) for size in sizes}
    addresses = {size: x.data_ptr() for size, x in kept.items()}
    kept.clear()
    assert new(9.5).data_ptr() == addresses[10]
    assert new(9).data_ptr() == addresses[9]
    assert new(31).data_ptr() == addresses[32]
    assert new(29).data_ptr() not in addresses.values()  # 3 MiB would be wasted
    assert new(7.5).data_ptr() not in addresses.values()  # more than an eighth would be


def test_the_limit_and_that_the_oldest_go_first():
    native.cpu_library().set_kept_limit(10 * MIB)
    first, second, third = (new(4) for _ in range(3))
    addresses = [x.data_ptr() for x in (first, second, third)]
    del first
    del second
    assert fresh.kept_bytes() == 8 * MIB
    del third
    assert fresh.kept_bytes() == 8 * MIB
    both = new(4), new(4)
    assert {x.data_ptr() for x in both} == set(addresses[1:])
    large = new(12)
    del large
    assert fresh.kept_bytes() == 0


def test_lowering_the_limit_gives_memory_back():
    results = [new(4), new(4)]
    results.clear()
    native.cpu_library().set_kept_limit(5 * MIB)
    assert fresh.kept_bytes() == 4 * MIB


def test_release_kept_memory():
    result = new(3)
    assert fresh.kept_bytes() == 0
    del result
    assert fresh.kept_bytes() == fourreal_kernels.release_kept_memory() == 3 * MIB
    assert fresh.kept_bytes() == fourreal_kernels.release_kept_memory() == 0


def lazily_freed_bytes() -> int:
    lines = Path("/proc/self/smaps").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("LazyFree:"))


def huge_pages_enabled() -> bool:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[never]" not in setting.read_text()


@pytest.mark.skipif(not huge_pages_enabled(), reason="this system has no huge pages; small ones are kept from it")
def test_the_system_may_take_what_is_kept_and_nothing_else():
    result = new(32).fill_(1)
    before = lazily_freed_bytes()
    del result
    assert lazily_freed_bytes() - before >= 30 * MIB
    again = new(32).fill_(2)
    assert lazily_freed_bytes() - before <= 2 * MIB
    assert bool((again == 2).all())


def test_small_results_are_torchs():
    small = new(0.9)
    del small
    assert fresh.kept_bytes() == 0


@pytest.mark.parametrize("named", ["", "-1", "1.5", "many"])
def test_a_limit_that_is_no_number(named, monkeypatch):
    monkeypatch.setenv("FOURREAL_KEPT_MIB", named)
    with pytest.raises(ValueError, match="FOURREAL_KEPT_MIB: got .*, expected how many MiB"):
        fresh._limit()


def test_off(monkeypatch):
    monkeypatch.setenv("FOURREAL_KEPT_MIB", "0")
    fresh._recycling_library.cache_clear()
    try:
        result = new(2)
        assert result.untyped_storage().resizable()
        del result
        assert fresh.kept_bytes() == 0
    finally:
        fresh._recycling_library.cache_clear()


def test_the_default_limit(monkeypatch):
    monkeypatch.delenv("FOURREAL_KEPT_MIB", raising=False)
    monkeypatch.setattr(fresh, "_physical_memory", lambda: 4 << 30)
    assert fresh._limit() == 256 * MIB
    monkeypatch.setattr(fresh, "_physical_memory", lambda: 64 << 30)
    assert fresh._limit() == 1024 * MIB


AT_EXIT = """
import threading
import torch
from fourreal_kernels.ops import fresh
x = torch.zeros(1 << 20)
fresh.empty_like(x), fresh.empty_like(x)  # of which the limit keeps one
print(fresh.kept_bytes())
alive, local = fresh.empty_like(x).fill_(1), threading.local()
local.alive = fresh.empty_like(x)
torch.kept_alive = fresh.empty_like(x)
"""


def test_in_a_process_that_ends_with_results_alive():
    environment = os.environ | {"FOURREAL_KEPT_MIB": "5", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", AT_EXIT], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{4 * MIB}\n", "")


def test_threads():
    def work(seed: int) -> bool:
        draw, right = random.Random(seed), True
        alive: list[tuple[torch.Tensor, int]] = []
        for step in range(60):
            value = 1000 * seed + step
            alive.append((new(draw.choice((1, 1.1, 2, 3))).fill_(value), value))
            if len(alive) > 3:
                x, expected = alive.pop(draw.randrange(4))
                right = right and bool((x == expected).all())
        return right

    native.cpu_library().set_kept_limit(6 * MIB)
    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(work, range(4))) == [True] * 4
    assert 0 < fresh.kept_bytes() <= 6 * MIB


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_keeps_its_own():
    alive, freed = new(2).fill_(3), new(2)
    del freed
    child = os.fork()
    if child == 0:  # nothing here may start threads: those of the parent are gone
        status = 1
        try:
            assert fresh.kept_bytes() == 0 and float(alive[-1]) == 3
            alive[0] = 5
            del alive
            assert fresh.kept_bytes() == 2 * MIB and new(2).storage_offset() == 0
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert fresh.kept_bytes() == 2 * MIB
    assert float(alive[0]) == 3
