"""The folder that the processes of a test run share: one builds, the others wait; it goes with the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import run_folder

BUILD = """
import sys, time
from pathlib import Path
from run_folder import built_once

def build(path):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(0.2)
    path.write_text("whole")

print(built_once("thing", build).read_text())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(run_folder._VARIABLE, str(tmp_path))
    return tmp_path


def test_one_process_builds_and_the_others_wait(folder):
    environment = os.environ | {"PYTHONPATH": str(Path(run_folder.__file__).parent)}
    command = [sys.executable, "-S", "-c", BUILD, str(folder / "log")]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in processes] == ["whole\n"] * 4
    assert (folder / "log").read_text() == "built\n"


def test_what_failed_is_built_again(folder):
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        run_folder.built_once("thing", fail)
    assert run_folder.built_once("thing", lambda path: path.write_text("whole")).read_text() == "whole"


def test_the_folder_goes_with_the_run(monkeypatch):
    monkeypatch.delenv(run_folder._VARIABLE)
    close = run_folder.open_run_folder()
    folder = run_folder.run_folder()
    (folder / "thing").write_text("")
    run_folder.open_run_folder()()  # of a process within the run
    assert folder.is_dir()
    close()
    assert not folder.exists() and run_folder._VARIABLE not in os.environ
