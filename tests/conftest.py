"""Set-up shared by every test."""

from __future__ import annotations

import os
from contextlib import nullcontext

import pytest
import torch

from fourreal_kernels.ops.triton_support import interpreting
from run_folder import open_run_folder

# On a machine with a GPU, FOURREAL_TEST_DEVICE=cuda creates the tensors of the tests there (`make gpu-check`).
DEVICE = os.environ.get("FOURREAL_TEST_DEVICE", "")

# Triton's interpreter is chosen when a process starts, so these tests are a run of their own.
collect_ignore = [] if interpreting() or DEVICE else ["triton"]


def pytest_configure(config):
    config.add_cleanup(open_run_folder())


def pytest_terminal_summary(terminalreporter):
    if collect_ignore:
        terminalreporter.write_line("not run here: tests/triton (TRITON_INTERPRET=1 python -m pytest tests/triton)")


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, alone or in any order."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def placed():
    """Tensors are created on the device that was asked for."""
    with torch.device(DEVICE) if DEVICE else nullcontext():
        yield
