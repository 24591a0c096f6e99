"""Rendering many shards, one process per core."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .dataset import SHARD_SUFFIX, check_seeds, check_shard, render_shard
from .optional import import_optional
from .scene_family import SceneFamily, scene_family

# glibc otherwise returns every large buffer to the system at once and pays for fresh pages on the next
# operation.
_WORKER_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}


def prerender(
    out_dir: str | Path,
    seeds: Sequence[int],
    workers: int = 2,
    grids_per_shard: int = 16,
    *,
    family: str | SceneFamily = "easy",
    size: int = 64,
    views: int = 8,
    times: int = 8,
    supersample: int = 2,
    light_samples: int = 4,
    allow_held_out: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Render `seeds` into shards of `grids_per_shard` grids in `out_dir`; returns the shards' paths in seed
    order.

    Shards that exist are kept, so an interrupted run continues where it stopped. Each worker is a fresh
    process with one torch thread (a script that calls this needs the usual `if __name__ == "__main__":`).
    Raises ValueError for held-out seeds unless `allow_held_out`, for counts below 1, and if shards that exist
    hold another family or size.
    """
    check_seeds(seeds, allow_held_out)
    for name, value in (("workers", workers), ("grids_per_shard", grids_per_shard)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")
    family = scene_family(family) if isinstance(family, str) else family
    options = {
        "family": family,
        "size": size,
        "views": views,
        "times": times,
        "supersample": supersample,
        "light_samples": light_samples,
        "allow_held_out": allow_held_out,
    }
    groups = [seeds[start : start + grids_per_shard] for start in range(0, len(seeds), grids_per_shard)]
    shards = {_shard_path(Path(out_dir), group): group for group in groups}
    missing = {path: group for path, group in shards.items() if not path.exists()}
    for path in shards.keys() - missing.keys():
        check_shard(path, family, size, views, times)
    done = len(seeds) - sum(len(group) for group in missing.values())
    with _environment(_WORKER_ENVIRONMENT), _executor(workers) as executor:
        jobs = {
            executor.submit(render_shard, path, list(group), **options): len(group)
            for path, group in missing.items()
        }
        _wait(jobs, executor, _progress_bar(len(seeds), done) if progress else None)
    return list(shards)


def _shard_path(out_dir: Path, seeds: Sequence[int]) -> Path:
    return out_dir / f"seeds_{seeds[0]:07d}_{seeds[-1]:07d}{SHARD_SUFFIX}"


def _executor(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    )


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes started inside, without overriding the user's own."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _wait(jobs: dict[Future, int], executor: ProcessPoolExecutor, bar: Any) -> None:
    """Wait for all jobs; the first failure cancels those not yet started."""
    try:
        for job in as_completed(jobs):
            job.result()
            if bar is not None:
                bar.update(jobs[job])
    except BaseException:
        executor.shutdown(cancel_futures=True)
        raise
    finally:
        if bar is not None:
            bar.close()


def _progress_bar(total: int, done: int) -> Any:
    tqdm = import_optional("tqdm", "progress=True of prerender")
    return tqdm.tqdm(total=total, initial=done, unit="grid")
