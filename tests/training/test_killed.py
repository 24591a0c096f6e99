"""A training that is killed at any moment leaves a model that loads and a state from which it goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
ROOT = HELPERS.parents[1]


@pytest.mark.parametrize(
    ("kind", "least"), [pytest.param("operations", 25, marks=pytest.mark.slow), ("moments", 1)]
)
def test_a_killed_training_goes_on(kind, least, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, HELPERS))), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, HELPERS / "killed_training.py", tmp_path, kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= least
