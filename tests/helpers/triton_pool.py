"""Compiles cases in processes of their own, as many as there are cores, while the tests wait for their results."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import fourreal_kernels  # noqa: F401  (registers the operators, here and in the processes)
from fourreal_kernels.cli.environment import usable_cores
from fourreal_kernels.ops.triton_cases import CompileCase, case_modules
from triton_compile import Compiled, compile_case

Key = tuple[str, str, int]  # operator, chip, index of the case


def cases(arch: str) -> dict[Key, CompileCase]:
    """Every case of every operator for a chip."""
    return {
        (op, arch, index): case
        for op, module in case_modules().items() for index, case in enumerate(module.compile_cases(arch))
    }


class CompilePool:
    """``result(key)`` is what :func:`compile_case` gives for that case, or raises what it raises."""

    def __init__(self, keys: Iterable[Key]):
        self._executor = ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn"))
        self._futures: dict[Key, Future[Compiled]] = {key: self._executor.submit(_compile, key) for key in keys}

    def result(self, key: Key) -> Compiled:
        return self._futures[key].result()

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def _compile(key: Key) -> Compiled:
    return compile_case(cases(key[1])[key], key[1])
