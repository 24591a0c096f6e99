"""The index arithmetic that kernels do per token, exhaustively, in C++."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on PATH")
def test_every_position(tmp_path):
    program = tmp_path / "check"
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined",
               "-fno-sanitize-recover=all", f"-I{ROOT / 'csrc/include'}", "-o", str(program),
               str(ROOT / "tests/native/merged_axes_check.cpp")]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "98304 combinations\n"), done.stdout + done.stderr
