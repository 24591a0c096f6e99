"""Set-up shared by every test."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.ops.triton_support import interpreting

# Triton's interpreter is chosen when a process starts, so these tests are a run of their own.
collect_ignore = [] if interpreting() else ["triton"]


def pytest_terminal_summary(terminalreporter):
    if not interpreting():
        terminalreporter.write_line("not run here: tests/triton (TRITON_INTERPRET=1 python -m pytest tests/triton)")


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, alone or in any order."""
    torch.manual_seed(0)
