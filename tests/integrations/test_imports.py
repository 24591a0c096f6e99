"""Importing the integrations imports none of the libraries they are for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import torch
before = set(sys.modules)
from fourreal_kernels.integrations import diffusers, flex, layouts
new = set(sys.modules) - before
assert "fourreal_kernels.integrations.diffusers.api" in new
print(sorted(name for name in new if name.split(".")[0] in ("diffusers", "transformers", "einops", "safetensors")))
"""


def test_no_optional_package_is_imported():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=Path(__file__).parents[2], capture_output=True, text=True,
                          timeout=300)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
