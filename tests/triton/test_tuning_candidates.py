"""What ``fourreal tune`` measures runs: each kernel's call, with the shipped configuration and with another one."""

from __future__ import annotations

from dataclasses import replace

import pytest

import fourreal_kernels  # noqa: F401  (registers the operators)
from fourreal_kernels.ops.triton_cases import TuneTask, candidate_modules
from fourreal_kernels.ops.triton_support import arch_of
from fourreal_kernels.ops.triton_tuning import device, measure

ARCH = arch_of(device())
TASKS = {task.kernel: task for module in candidate_modules().values() for task in module.tuning_candidates(ARCH)}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.kernel)
def test_the_calls_run(task: TuneTask):
    chosen = replace(task, candidates=task.candidates[1:2])
    calls = []
    outcome = measure(chosen, ARCH, lambda run: calls.append(run) or float(len(calls)))
    assert outcome.refused == outcome.wrong == 0 and outcome.seconds == outcome.shipped_seconds == 1.0
    assert len(calls) == 1 + outcome.tried
