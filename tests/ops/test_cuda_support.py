"""Where the compiled CUDA backends say they run, and on which stream."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fourreal_kernels import dispatch, native
from fourreal_kernels.ops import cuda_support


@pytest.fixture
def capability(monkeypatch):
    """Pretends that every CUDA device has this one."""

    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
        cuda_support._capability.cache_clear()

    yield pretend
    cuda_support._capability.cache_clear()


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(native, "cuda_library", lambda: None)
    monkeypatch.setattr(native, "why_missing", lambda name: f"not built: {name}")
    assert cuda_support.why_unavailable() == "not built: cuda"


@pytest.mark.parametrize("words", ["no CUDA-capable device is detected", ""])
def test_without_a_device_in_the_words_of_cuda(words, monkeypatch):
    monkeypatch.setattr(native, "cuda_library", lambda: SimpleNamespace(why_no_device=lambda: words))
    assert cuda_support.why_unavailable() == (words or None)


def test_devices(capability):
    cpu, gpu = (SimpleNamespace(device=torch.device(name)) for name in ("cpu", "cuda:0"))
    assert cuda_support.refuse_device(cpu) == "it runs on cuda, the call is on cpu"
    capability(9, 0)
    assert cuda_support.refuse_device(gpu) is None
    capability(7, 5)
    assert "compute capability 8.0 or newer, cuda:0 has 7.5" in cuda_support.refuse_device(gpu)


def test_cpu_tensors_have_no_stream():
    with cuda_support.on_device(torch.zeros(1, device="cpu")):
        assert cuda_support.stream_of(torch.zeros(1, device="cpu")) == 0


def test_every_cuda_backend_asks_here(monkeypatch):
    monkeypatch.setattr(cuda_support, "why_unavailable", lambda: "asked")
    backends = [op.name for op in dispatch.operators() if "cuda" in op.backends]
    assert {"sync_exchange", "qk_norm_rope", "qk_norm_rope_"} <= set(backends)
    for name in backends:
        assert dispatch.load(name, "cuda").unavailable() == "asked"
