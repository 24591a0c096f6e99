"""The exit status of an interrupted command."""

import subprocess
import sys
from pathlib import Path

import fourreal_kernels

# Importing dataclasses runs strings: a module run by -m then ends by the signal if it leaves its end to Python.
SCRIPT = """
import runpy, sys
import fourreal_kernels.cli.doctor as doctor

def interrupted(arguments):
    exec("raise KeyboardInterrupt")

doctor.run = interrupted
sys.argv = ["fourreal", "doctor"]
runpy.run_module("fourreal_kernels.cli", run_name="__main__", alter_sys=True)
"""


def test_an_interrupt_inside_of_exec_has_the_same_status(tmp_path):
    (tmp_path / "interrupted.py").write_text(SCRIPT)
    paths = f"{Path(fourreal_kernels.__file__).parents[1]}:{tmp_path}"
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, env={"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "fourreal: interrupted\n", done.stderr
