"""What the machine can do at most, measured in the same run: fused multiply-adds and a copy, with all threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import perf_counter

import torch

from fourreal_kernels import native

_COPY_MEGABYTES = 256
_COPY_REPEATS = 5
_MATRIX = 2048


@dataclass(frozen=True)
class Ceilings:
    """GFLOP/s and GB/s (bytes read plus bytes written), and how each was measured."""

    fma_gflops: float
    fma_source: str
    copy_gbs: float
    copy_source: str

    def to_dict(self) -> dict:
        return asdict(self)

    def merged(self, other: Ceilings) -> Ceilings:
        """The higher of each: interference only lowers them."""
        fma = max(self, other, key=lambda item: item.fma_gflops)
        copy = max(self, other, key=lambda item: item.copy_gbs)
        return Ceilings(fma.fma_gflops, fma.fma_source, copy.copy_gbs, copy.copy_source)


def measure_ceilings(device: torch.device, milliseconds: int = 300) -> Ceilings:
    """Measure both with the threads that torch uses now."""
    library = native.cpu_library() if device.type == "cpu" else None
    if hasattr(library, "measure_fma_gflops"):
        fma = float(library.measure_fma_gflops(milliseconds)), "fused multiply-adds in registers (native library)"
    else:
        fma = _matrix_gflops(device, milliseconds), f"torch.mm of {_MATRIX} x {_MATRIX} float32: a lower bound"
    if hasattr(library, "measure_copy_gbs"):
        copy = float(library.measure_copy_gbs(_COPY_MEGABYTES, _COPY_REPEATS)), "native library"
    else:
        copy = _copy_gbs(device), "torch copy_"
    return Ceilings(*fma, *copy)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _matrix_gflops(device: torch.device, milliseconds: int) -> float:
    a, b = (torch.randn(_MATRIX, _MATRIX, device=device) for _ in range(2))
    out = a @ b
    best, started = float("inf"), perf_counter()
    while perf_counter() - started < milliseconds / 1000:
        _wait(device)
        begun = perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        best = min(best, perf_counter() - begun)
    return 2 * _MATRIX**3 / best / 1e9


def _copy_gbs(device: torch.device) -> float:
    source = torch.randn(_COPY_MEGABYTES * 2**20 // 4, device=device)
    target = torch.empty_like(source).copy_(source)
    best = float("inf")
    for _ in range(_COPY_REPEATS):
        _wait(device)
        begun = perf_counter()
        target.copy_(source)
        _wait(device)
        best = min(best, perf_counter() - begun)
    return 2 * source.numel() * source.element_size() / best / 1e9
