"""The tile maps of the frame attention kernels: every output row once, every key once, for hundreds of shapes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("frame_tiles_check.cpp")


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on PATH")
def test_every_row_is_written_once_and_every_key_is_visited_once(tmp_path):
    program = tmp_path / "frame_tiles_check"
    command = ["g++", "-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc/include'}", str(SOURCE),
               "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout) >= 1000
