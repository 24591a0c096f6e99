"""Every CPU operator, forward and backward, has the same bits for any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import fourreal_kernels as fk
from fourreal_kernels import native

library = native.cpu_library()
pytestmark = pytest.mark.skipif(library is None, reason=native.why_missing("cpu"))

THREADS = (1, 2, 3)
# Items of frame attention, one per head and line: fewer than threads, fewer than twice the threads, and more.
FRAME_GRIDS = {
    "one head": (1, 2, 2, 70, 1, 40),
    "two heads": (1, 2, 3, 37, 2, 24),
    "many heads": (2, 3, 2, 21, 3, 16),
}
# Enough elements for several tasks of the kernels that give each thread a least amount of work.
LONG_GRID = (2, 4, 3, 150, 2, 40)
STREAMS = torch.Size((2, 3, 2, 200, 96))


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def results_and_gradients(run: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor]) -> list[Tensor]:
    """Gradients with respect to all inputs, of a sum of the results with random weights."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    results = run(*leaves)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in results]
    return [*(x.detach() for x in results), *torch.autograd.grad(results, leaves, weights)]


def check(run: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor]) -> None:
    expected = None
    for threads in THREADS:
        torch.set_num_threads(threads)
        assert library.max_threads() == threads
        found = results_and_gradients(run, inputs)
        expected = expected or found
        assert all(x.isfinite().all() for x in found)
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            assert torch.equal(one, other), f"tensor {index} differs between 1 and {threads} threads"


def qkv(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, triples: int = 1) -> list[Tensor]:
    return [torch.randn(shape).to(dtype) for _ in range(3 * triples)]


def attention(axes: str) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda q, k, v: fk.axis_attention(q, k, v, axes, return_lse=True, backend="cpu")


@pytest.mark.parametrize("grid", FRAME_GRIDS)
@pytest.mark.parametrize("axes", ["vn", "tn", "vn|tn", "n", "vtn"])
def test_frame_attention(axes, grid):
    check(attention(axes), qkv(FRAME_GRIDS[grid]))


@pytest.mark.parametrize("axes", ["v", "t", "v|t", "vt"])
def test_pointwise_attention(axes):
    check(attention(axes), qkv(LONG_GRID))


@pytest.mark.parametrize("axes", ["vn", "vn|tn", "v", "v|t"])
def test_attention_of_bfloat16(axes):
    check(attention(axes), qkv(FRAME_GRIDS["two heads"], torch.bfloat16))


def test_union_of_which_each_thread_holds_a_head():
    check(attention("vn|tn"), qkv((1, 2, 2, 260, 3, 96), torch.bfloat16))


def two_streams(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    return fk.two_stream_attention(tensors[:3], tensors[3:], backend="cpu")


@pytest.mark.parametrize("grid", FRAME_GRIDS)
def test_two_stream_attention(grid):
    check(two_streams, qkv(FRAME_GRIDS[grid], triples=2))


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("grid", FRAME_GRIDS)
def test_two_stream_attention_has_the_bits_of_single_calls(grid, threads):
    """Streams of one item each share threads that a single call would have to itself."""
    inputs = qkv(FRAME_GRIDS[grid], triples=2)

    def single_calls(*tensors):
        return tuple(fk.axis_attention(*part, axes, backend="cpu")
                     for part, axes in ((tensors[:3], "vn"), (tensors[3:], "tn")))

    torch.set_num_threads(threads)
    pairs = zip(results_and_gradients(two_streams, inputs), results_and_gradients(single_calls, inputs), strict=True)
    assert all(torch.equal(together, apart) for together, apart in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_qk_norm_rope(dtype):
    q, k = (torch.randn(LONG_GRID).to(dtype) for _ in range(2))
    cos, sin = torch.randn(2, LONG_GRID[3], LONG_GRID[5] // 2)
    weights = [torch.randn(LONG_GRID[5]).to(dtype) for _ in range(2)]
    check(lambda *leaves: fk.qk_norm_rope(*leaves, cos, sin, backend="cpu"), [q, k, *weights])


def exchange_inputs(kind: str) -> list[Tensor]:
    """view, time, weight per channel, bias, input_scale, gate."""
    batch, channels = STREAMS[0], STREAMS[-1]
    outputs = channels if kind == "hard" else 2 * channels
    weight = torch.randn((2, channels) if kind == "hard" else (2, 2, channels))
    parameters = torch.randn(outputs), torch.randn(batch, 2 * channels), torch.randn(batch, outputs)
    return [torch.randn(STREAMS), torch.randn(STREAMS), weight, *parameters]


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_sync_exchange(kind):
    def run(view, time, weight, bias, input_scale, gate):
        return fk.sync_exchange(view, time, weight, bias, kind=kind, input_scale=input_scale, gate=gate, backend="cpu")

    check(run, exchange_inputs(kind))


@pytest.mark.parametrize("kind", ["hard", "soft", "split"])
def test_passes_around_the_dense_product(kind):
    """The product itself is torch's, which promises no bits: its sums may depend on the threads."""
    batch, channels = STREAMS[0], STREAMS[-1]
    outputs = channels if kind == "hard" else 2 * channels
    streams, mixed = torch.randn(2, *STREAMS), torch.randn(*STREAMS[:4], outputs)
    input_scale, bias, gate = torch.randn(batch, 2 * channels), torch.randn(outputs), torch.randn(batch, outputs)
    common = "float32", streams[0].shape, (0, STREAMS[:-1].numel())
    found = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        staged, outs = torch.full((*STREAMS[:4], 2 * channels), float("nan")), torch.full_like(streams, float("nan"))
        pairs = [(x.data_ptr(), x.stride()) for x in (*streams, *outs)]
        library.sync_exchange_stage(*common, *pairs[:2], None, 0, input_scale.data_ptr(), False, staged.data_ptr())
        library.sync_exchange_finish(kind, *common, *pairs, mixed.data_ptr(), bias.data_ptr(), gate.data_ptr())
        found.append((staged, outs))
        assert all(x.isfinite().all() for x in found[-1])
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_sync_exchange_norm(kind):
    branches = [torch.randn(STREAMS) for _ in range(2)]
    of_norm = [torch.randn(STREAMS[0], 2 * STREAMS[-1]) for _ in range(3)]

    def run(view, time, weight, bias, input_scale, gate, view_branch, time_branch, branch_gate, scale, shift):
        return fk.sync_exchange_norm(
            view, time, view_branch, time_branch, weight, bias, kind=kind, input_scale=input_scale, gate=gate,
            branch_gate=branch_gate, norm_scale=scale, norm_shift=shift, backend="cpu",
        )

    check(run, [*exchange_inputs(kind), *branches, *of_norm])
