"""Set-up shared by every test: helper modules on the import path and deterministic random numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "helpers"))


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, alone or in any order."""
    torch.manual_seed(0)
