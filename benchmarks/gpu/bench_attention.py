"""Attention over whole frames in bfloat16 against the fused kernels of PyTorch, FlexAttention and compiled eager."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

import fourreal_kernels as fk

from ..case import Case, Context, Workload, random_tensor
from ..peers import attention as stock
from ..peers.compiled import compiled
from ..peers.layout import from_lines, to_lines
from ..references import AttentionCheck
from ..suites.attention import attention_flops, gradient_call
from . import peers

SUITE, FLEX_SUITE, STREAMS_SUITE = "gpu_attention", "gpu_flex", "gpu_two_stream"
PERMUTED = {kernel: f"permute + {kernel} + permute" for kernel in peers.KERNELS}
LINES = {kernel: f"{kernel}, stored as lines" for kernel in peers.KERNELS}
MERGED, GATHERED, FLEX = "3 sdpa merged by lse", "sdpa on gathered keys", "flex_attention, compiled"
COMPILED = "softmax(q k^T) v, compiled"
_DTYPE = torch.bfloat16
# (V, T, N, H, D): the shapes of docs/gpu.md, then other numbers of tokens.
PAPER, WIDE_HEADS = (8, 8, 576, 16, 64), (8, 8, 576, 8, 128)
_NAMED = ((8, 8, 64, 16, 64), (8, 8, 256, 16, 64), PAPER, WIDE_HEADS, (4, 13, 1560, 12, 128), (8, 5, 3600, 24, 128))
_OTHER_TOKENS = (100, 240, 390, 1024, 1560)
_BACKWARD = ((8, 8, 64, 16, 64), (8, 8, 240, 16, 64), PAPER, WIDE_HEADS)
_FLEX = ((8, 8, 64, 16, 64), (8, 8, 100, 16, 64), WIDE_HEADS)
_REHEARSED = ((2, 2, 9, 2, 16),)
_TENSORS_MOVED = {"forward": 4, "backward": 8}
_COMPILED_TOKENS = 64
# Above, gathered copies of the keys and values take more memory than time.
_GATHERED_TOKENS = 640


def forward_cases(axes: str, small: bool) -> Iterator[Case]:
    """The named shapes, then N in 100, 240, 390, 1024, 1560 with D 64, and those up to 390 with D 128."""
    if small:
        yield from (attention_case(axes, shape, "forward") for shape in _REHEARSED)
        return
    yield from (attention_case(axes, shape, "forward") for shape in _NAMED)
    yield from (attention_case(axes, (8, 8, tokens, 16, 64), "forward") for tokens in _OTHER_TOKENS)
    yield from (attention_case(axes, (8, 8, tokens, 8, 128), "forward") for tokens in (64, *_OTHER_TOKENS[:3]))


def backward_cases(small: bool) -> Iterator[Case]:
    for shape in _REHEARSED if small else _BACKWARD:
        yield from (attention_case(axes, shape, "backward") for axes in ("vn", "tn", "vn|tn"))


def flex_cases(small: bool) -> Iterator[Case]:
    """The union by compiled FlexAttention at three shapes; it compiles for half a minute each."""
    for shape in _REHEARSED if small else _FLEX:
        case = attention_case("vn|tn", shape, "forward", suite=FLEX_SUITE)
        yield replace(case, main_peer=FLEX, build=lambda context, s=shape: _flex(context, (1, *s)))


def compiled_cases(small: bool) -> Iterator[Case]:
    """What torch.compile makes of the plain formula."""
    for axes in ("vn", "tn"):
        shape = _REHEARSED[0] if small else (8, 8, _COMPILED_TOKENS, 16, 64)
        case = attention_case(axes, shape, "forward", suite="gpu_compiled")
        yield replace(case, main_peer=COMPILED, build=lambda context, a=axes, s=shape: _compiled(context, a, (1, *s)))


def two_stream_cases(small: bool) -> Iterator[Case]:
    shapes = _REHEARSED if small else ((8, 8, 16, 16, 64), (8, 8, 64, 16, 64), (8, 8, 240, 16, 64), PAPER)
    for shape in shapes:
        sizes = _sizes(shape)
        yield Case(
            suite=STREAMS_SUITE, op="two_stream_attention", sizes=sizes, dtype=_DTYPE, main_peer=PERMUTED["cudnn"],
            flops=sum(attention_flops(axes, sizes, "forward") for axes in ("vn", "tn")),
            build=lambda context, s=shape: _two_stream(context, (1, *s)),
        )


def attention_case(axes: str, shape: tuple[int, ...], direction: str, suite: str = SUITE) -> Case:
    sizes = _sizes(shape)
    build = _forward if direction == "forward" else _backward
    return Case(
        suite=suite, op="axis_attention", axes=axes, sizes=sizes, direction=direction, dtype=_DTYPE,
        main_peer=MERGED if axes == "vn|tn" else LINES["cudnn"], flops=attention_flops(axes, sizes, direction),
        bytes=float(_DTYPE.itemsize * _TENSORS_MOVED[direction] * torch.Size(sizes.values()).numel()),
        build=lambda context: build(context, axes, (1, *shape)),
    )


def _sizes(shape: tuple[int, ...]) -> dict[str, int]:
    return {"B": 1, **dict(zip("VTNHD", shape, strict=True))}


def _inputs(context: Context, shape: tuple[int, ...], first_seed: int = 0) -> list[Tensor]:
    return [random_tensor(context, *shape, seed=first_seed + index, dtype=_DTYPE) for index in range(3)]


def _add_ours(work: Workload, context: Context, axes: str, inputs: list[Tensor]) -> None:
    work.ours(
        context, "axis_attention",
        lambda backend: lambda: (fk.axis_attention(*inputs, axes, backend=backend),), *inputs, axes,
    )


def _forward(context: Context, axes: str, shape: tuple[int, ...]) -> Workload:
    inputs = _inputs(context, shape)
    work = Workload(AttentionCheck(*inputs, axes))
    _add_ours(work, context, axes, inputs)
    if axes == "vn|tn":
        _add_union_peers(work, inputs)
        return work
    stored = [to_lines(x, axes).contiguous() for x in inputs]
    for kernel in peers.KERNELS:
        lines, grid = peers.on_lines(kernel), peers.permuted(kernel, axes)
        work.peer(
            LINES[kernel], lambda f=lines: (f(*stored),),
            finish=lambda results: (from_lines(results[0], axes, shape),),
        )
        work.peer(PERMUTED[kernel], lambda f=grid: (f(*inputs),))
    return work


def _add_union_peers(work: Workload, inputs: list[Tensor]) -> None:
    work.peer(MERGED, lambda: (fk.axis_attention(*inputs, "vn|tn", backend="sdpa"),))
    if inputs[0].shape[3] <= _GATHERED_TOKENS:
        work.peer(GATHERED, lambda: (stock.union_gathered(*inputs),))
    else:
        work.absent[GATHERED] = f"more than {_GATHERED_TOKENS} tokens: the gathered copies fill the memory"


def _backward(context: Context, axes: str, shape: tuple[int, ...]) -> Workload:
    inputs = _inputs(context, shape)
    grad = random_tensor(context, *shape, seed=3, dtype=_DTYPE)
    work = Workload(AttentionCheck(*inputs, axes, grad))
    work.ours(
        context, "axis_attention",
        lambda backend: gradient_call(lambda *x: fk.axis_attention(*x, axes, backend=backend), inputs, grad),
        *inputs, axes,
    )
    if axes == "vn|tn":
        work.peer(MERGED, gradient_call(lambda *x: fk.axis_attention(*x, axes, backend="sdpa"), inputs, grad))
        return work
    stored = [to_lines(x, axes).contiguous() for x in (*inputs, grad)]
    for kernel in peers.KERNELS:
        try:
            lines = gradient_call(peers.on_lines(kernel), stored[:3], stored[3])
            grid = gradient_call(peers.permuted(kernel, axes), inputs, grad)
        except RuntimeError as error:  # the forward runs here, and a kernel that cannot says so
            work.absent[LINES[kernel]] = " ".join(str(error).split())[:200]
            continue
        work.peer(
            LINES[kernel], lines, finish=lambda results: tuple(from_lines(x, axes, shape) for x in results)
        )
        work.peer(PERMUTED[kernel], grid)
    return work


def _flex(context: Context, shape: tuple[int, ...]) -> Workload:
    inputs = _inputs(context, shape)
    work = Workload(AttentionCheck(*inputs, "vn|tn"))
    _add_ours(work, context, "vn|tn", inputs)
    if context.compile:
        run = stock.flex_attention("vn|tn", shape, context.device)
        work.peer(FLEX, lambda: (run(*inputs),), compiled=True)
    else:
        work.absent[FLEX] = "a rehearsal compiles nothing"
    return work


def _compiled(context: Context, axes: str, shape: tuple[int, ...]) -> Workload:
    inputs = _inputs(context, shape)
    work = Workload(AttentionCheck(*inputs, axes))
    _add_ours(work, context, axes, inputs)

    def make():
        run = compiled(stock.naive, "naive", axes, shape)
        return lambda: (run(*inputs, axes),)

    work.compiled_peer(context, COMPILED, make)
    return work


def _two_stream(context: Context, shape: tuple[int, ...]) -> Workload:
    streams = {"vn": _inputs(context, shape), "tn": _inputs(context, shape, 3)}
    checks = {axes: AttentionCheck(*inputs, axes) for axes, inputs in streams.items()}

    def check(results):
        both = [checks[axes]([result]) for axes, result in zip(streams, results, strict=True)]
        return max(both, key=lambda deviation: deviation.relative)

    work = Workload(check)
    view, time = streams.values()
    work.ours(
        context, "two_stream_attention",
        lambda backend: lambda: fk.two_stream_attention(view, time, backend=backend), view, time,
    )
    for kernel in peers.KERNELS:
        forms = {axes: peers.permuted(kernel, axes) for axes in streams}
        work.peer(
            PERMUTED[kernel], lambda f=forms: tuple(f[axes](*inputs) for axes, inputs in streams.items())
        )
    return work
