"""Where the Triton backends say they run, and that "auto" leaves GPU kernels alone that have not run on a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import fourreal_kernels  # noqa: F401  (registers the operators)
from fourreal_kernels import dispatch
from fourreal_kernels.ops import triton_support

CACHED = ("interpreting", "why_unavailable", "arch_of", "_capability")


@pytest.fixture(autouse=True)
def forgotten():
    def forget():
        for name in CACHED:
            getattr(triton_support, name).cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def gpu(monkeypatch):
    """A CUDA device of the given compute capability, as torch would tell of it."""

    def pretend(major: int, minor: int) -> torch.device:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
        return torch.device("cuda", 0)

    return pretend


def test_without_triton(monkeypatch):
    monkeypatch.setattr(triton_support, "find_spec", lambda name: None)
    assert triton_support.why_unavailable() == "triton is not installed: pip install triton"


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(triton_support, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in triton_support.why_unavailable()


def test_an_old_triton(gpu, monkeypatch):
    gpu(9, 0)
    monkeypatch.setattr(triton_support, "find_spec", lambda name: object())
    monkeypatch.setitem(__import__("sys").modules, "triton", SimpleNamespace(__version__="3.2.0"))
    assert "triton 3.2.0 is too old: 3.6" in triton_support.why_unavailable()


def test_on_a_gpu(gpu):
    device = gpu(9, 0)
    assert triton_support.arch_of(device) == "sm_90"
    assert triton_support.refuse_device(SimpleNamespace(device=device)) is None
    refused = triton_support.refuse_device(SimpleNamespace(device=torch.device("cpu")))
    assert refused == "it runs on cuda, the call is on cpu"


def test_on_an_old_gpu(gpu):
    device = gpu(7, 5)
    assert "compute capability 8.0" in triton_support.refuse_device(SimpleNamespace(device=device))


def test_under_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton_support.arch_of(torch.device("cpu")) == "interpreter"
    assert triton_support.refuse_device(SimpleNamespace(device=torch.device("cpu"))) is None
    assert "runs on cpu under TRITON_INTERPRET=1" in triton_support.refuse_device(
        SimpleNamespace(device=torch.device("cuda", 0))
    )


def test_auto_on_cuda_names_no_kernel_that_has_not_run_on_a_gpu():
    """``docs/gpu.md`` says what has run. An operator's kernels enter its table together with that result."""
    chosen = {op.name: set(op.auto["cuda"]) & {"triton", "cuda"} for op in dispatch.operators() if "cuda" in op.auto}
    assert chosen and not any(chosen.values()), chosen
