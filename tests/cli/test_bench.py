"""``fourreal bench``: errors of the user, and one small run from the command to the record and its report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import fourreal_kernels
from fourreal_kernels.cli import bench, main


def _refused(capsys, *argv: object) -> str:
    assert main(["bench", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("fourreal: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("arguments, message", [
    (["--suite", "speed"], "--suite: got 'speed', expected one of attention, pointwise"),
    (["--backend", "fast"], "invalid choice: 'fast'"),
    (["--threads", "0"], "--threads: got '0'"),
    (["--device", "abacus"], "--device: got 'abacus'"),
    (["--out", "x"], "--out: expected only with --report"),
    (["--report", "absent.json"], "absent.json"),
    (["--quick", "--case", "no such case"], "--case"),
])
def test_bad_arguments(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in _refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_record(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "absent" / "x.json", tmp_path / "file" / "x.json", Path("/proc/x.json")):
        assert "argument --json" in _refused(capsys, "--quick", "--suite", "norm_rope", "--json", target)


def test_report_of_another_file(capsys, tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"schema": 0}')
    assert "not a benchmark record" in _refused(capsys, "--report", path)


def test_installed_without_the_repository(capsys, monkeypatch, tmp_path):
    package = tmp_path / "fourreal_kernels"
    package.mkdir()
    monkeypatch.setattr(fourreal_kernels, "__file__", str(package / "__init__.py"))
    assert "part of the source repository" in _refused(capsys, "--quick")


def test_another_package_of_that_name(capsys, monkeypatch):
    other = type(sys)("benchmarks")
    other.__file__ = "/elsewhere/benchmarks/__init__.py"
    monkeypatch.setitem(sys.modules, "benchmarks", other)
    assert "another package" in _refused(capsys, "--quick")


def test_run_record_and_report(fourreal, tmp_path, capsys):
    printed = fourreal(
        "bench", "--quick", "--suite", "norm_rope", "--backend", "reference", "--threads", 1, "--json", tmp_path
    )
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert f"wrote {path}" in printed and "| qk_norm_rope_" in printed
    assert record["settings"]["suites"] == ["norm_rope"] and record["settings"]["threads"] == 1
    assert record["ceilings"]["fma_gflops"] > 0
    for case in record["cases"]:
        assert {"ours:reference", "eager", "compiled"} == set(case["providers"])
        assert case["providers"]["compiled"]["status"] == "absent"
        for name in ("ours:reference", "eager"):
            assert len(case["providers"][name]["samples"]) == case["rounds"] >= 3
            assert case["providers"][name]["relative_error"] < 1e-5
    again = fourreal("bench", "--report", path)
    assert again.strip() == printed.partition("\nwrote ")[0].strip()
    fourreal("bench", "--report", path, "--out", tmp_path / "report")
    assert "qk_norm_rope_" in (tmp_path / "report" / "report.md").read_text()


def test_help_lists_the_suites(capsys):
    from benchmarks.suites import SUITES

    parser = bench.ArgumentParser()
    bench.add_arguments(parser)
    assert all(name in parser.format_help() for name in SUITES)


def test_module_form(run_process):
    """With the package in the search path and nothing installed."""
    code = "import runpy; runpy.run_module('benchmarks', run_name='__main__')"
    result = run_process("--suite", "speed", code=code)
    assert result.returncode == 2 and "expected one of attention" in result.stderr
