"""The index maps of the CUDA kernels of pointwise attention, gone through on the host."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on PATH")
def test_every_row_key_and_output_once(tmp_path):
    program = tmp_path / "check"
    include = [f"-I{ROOT / folder}" for folder in ("csrc/include", "csrc/cuda")]
    source = ROOT / "tests/native/pointwise_tiles_check.cpp"
    subprocess.run(["g++", "-std=c++17", "-O1", *include, str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    passed = re.fullmatch(r"passed: (\d+) calls, (\d+) that fit\n", done.stdout)
    assert passed, done.stdout + done.stderr
    assert int(passed[1]) > 1000 and int(passed[2]) > 900
