"""``fourreal doctor``."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
import torch

from fourreal_kernels import available_backends, dispatch, native
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


def test_the_cuda_library_where_there_is_no_gpu(fourreal, monkeypatch):
    """Its build, and CUDA's own words for why nothing of it can run."""
    build = {"version": __version__, "compiler": "NVIDIA 13.0.88", "archs": ["sm_80", "sm_90a"]}
    reason = "CUDA driver version is insufficient for CUDA runtime version"
    library = SimpleNamespace(build_info=lambda: build, device_count=lambda: 0, why_no_device=lambda: reason)
    monkeypatch.setattr("fourreal_kernels.native.cuda_library", lambda: library)
    report = json.loads(fourreal("doctor", "--json"))
    assert report["native_libraries"]["cuda"] == build | {"devices": f"none: {reason}"}
    assert report["backends"]["qk_norm_rope_"]["cuda"] == report["backends"]["sync_exchange"]["cuda"] == reason
    printed = fourreal("doctor")
    assert all(word in printed for word in ("NVIDIA 13.0.88", "sm_90a", reason))


@pytest.mark.skipif(native.cuda_library() is None, reason=native.why_missing("cuda"))
def test_the_cuda_library_that_is_built(fourreal):
    found = json.loads(fourreal("doctor", "--json"))["native_libraries"]["cuda"]
    assert {"sm_80", "sm_90a"} <= set(found["archs"]) and found["compiler"].startswith("NVIDIA")
    count = native.cuda_library().device_count()
    assert found["devices"] == (count or f"none: {native.cuda_library().why_no_device()}")


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
