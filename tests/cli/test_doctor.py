"""``fourreal doctor``."""

from __future__ import annotations

import json
import os

import torch

from fourreal_kernels import available_backends, dispatch
from fourreal_kernels.cli import main
from fourreal_kernels.version import __version__

OPTIONAL = ("PIL", "av", "safetensors", "tqdm", "triton", "scipy", "diffusers")


def test_json(fourreal):
    report = json.loads(fourreal("doctor", "--json"))
    assert report["versions"]["fourreal_kernels"] == __version__
    assert report["packages"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert report["machine"]["cores"] == os.cpu_count() and report["machine"]["cpu"]
    for op, backends in report["backends"].items():
        assert list(backends) == list(dispatch.BACKENDS)
        assert [name for name, state in backends.items() if state == "available"] == available_backends(op)
    assert {"cpu", "cuda"} == set(report["native_libraries"])


def test_text_says_the_same(fourreal):
    printed = fourreal("doctor")
    assert "two_stream_attention" in printed and "bundled_model" in printed
    assert f"fourreal_kernels: {__version__}" in printed


def test_broken_parts_are_reported(fourreal, monkeypatch):
    def broken():
        raise OSError("no\nsuch thing")

    monkeypatch.setattr("fourreal_kernels.native.cpu_library", broken)
    report = json.loads(fourreal("doctor", "--json"))
    assert report["native_libraries"]["cpu"] == "OSError: no such thing"
    assert report["versions"]["python"]


def test_without_optional_packages(run_process):
    block = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL!r}))"
    code = f"{block}\nfrom fourreal_kernels.cli import main\nraise SystemExit(main())"
    result = run_process("doctor", "--json", code=code)
    assert result.returncode == 0 and result.stderr == ""
    report = json.loads(result.stdout)
    assert "cannot be imported" in report["packages"]["safetensors"]
    assert report["backends"]["axis_attention"]["reference"] == "available"


def test_reader_that_stops_early(monkeypatch, capsys):
    """The pipe is closed before anything is written, as by `| head`."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main(["doctor"]) == 141
    assert capsys.readouterr().err == ""
