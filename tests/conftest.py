"""Set-up shared by every test."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, alone or in any order."""
    torch.manual_seed(0)
