"""Attention over the tokens of several frames, forward and backward, and the two streams at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import fourreal_kernels as fk

from ..case import Case, Context, Workload, random_tensor
from ..check import Deviation
from ..peers import attention as peers
from ..peers.compiled import compiled
from ..peers.layout import from_lines, to_lines
from ..references import AttentionCheck

VIEWS = TIMES = 8
TOKENS = (36, 64, 144, 240, 576)
HEAD_DIMS = (64, 128)
# FLOPs grow with the square of N: fewer channels at large N keep a case within seconds.
_CHANNELS = {240: 256, 576: 128}
_MOST_CHANNELS = 512
# Forms with all scores in memory, or that compile per shape, take part up to here.
_NAIVE_TOKENS = 64
_TEXT_TOKENS = 77  # of CLIP
# Above, a union takes seconds per head, and only the peers that targets name take part.
_LARGE_TOKENS = 240
_COMPILED = {"N": 64, "D": 64}
_FORWARD_FLOPS, _BACKWARD_FLOPS = 4, 10
_TENSORS_MOVED = {"forward": 4, "backward": 8}  # q, k, v, out; then its gradient and theirs

LINES = "sdpa, stored as lines"
ON_GRID = "sdpa on the grid"
PERMUTED = "permute + sdpa + permute"
MERGED = "3 sdpa merged by lse"
GATHERED = "sdpa on gathered keys"
DENSE = "sdpa with dense mask"


def cases(quick: bool) -> Iterator[Case]:
    """``tn``, ``vn`` and ``vn|tn`` at every size, forward then backward, ``two_stream_attention``, text tokens."""
    tokens = (36, 64) if quick else TOKENS
    for direction in ("forward", "backward"):
        for axes in ("tn", "vn", "vn|tn"):
            for head_dim in HEAD_DIMS[:1] if quick else HEAD_DIMS:
                for count in tokens:
                    sizes = grid_sizes(count, head_dim)
                    if axes == "vn|tn" and count > _LARGE_TOKENS:
                        sizes["H"] = 1
                    yield attention_case(axes, sizes, direction)
    for count in (36,) if quick else (36, 144, 576):
        yield _two_stream_case(grid_sizes(count, 64))
    yield extra_case(grid_sizes(36 if quick else 144, 64))


def grid_sizes(tokens: int, head_dim: int, views: int = VIEWS, times: int = TIMES) -> dict[str, int]:
    channels = _CHANNELS.get(tokens, _MOST_CHANNELS)
    return {"B": 1, "V": views, "T": times, "N": tokens, "H": max(1, channels // head_dim), "D": head_dim}


def attention_flops(axes: str, sizes: dict[str, int], direction: str) -> float:
    """Of the matrix products: two in the forward, five in the backward."""
    keys = fk.grid.parse_axes(axes).keys_per_query(sizes["V"], sizes["T"], sizes["N"])
    queries = sizes["B"] * sizes["V"] * sizes["T"] * sizes["N"] * sizes["H"]
    factor = _FORWARD_FLOPS if direction == "forward" else _BACKWARD_FLOPS
    return float(factor * queries * keys * sizes["D"])


def attention_case(axes: str, sizes: dict[str, int], direction: str, suite: str = "attention") -> Case:
    forward = {"tn": LINES, "vn": PERMUTED, "vn|tn": MERGED}
    backward = forward | {"vn|tn": GATHERED}
    build = _forward if direction == "forward" else _backward
    return Case(
        suite=suite, op="axis_attention", axes=axes, sizes=sizes, direction=direction,
        main_peer=(forward if direction == "forward" else backward)[axes],
        flops=attention_flops(axes, sizes, direction),
        bytes=4.0 * _TENSORS_MOVED[direction] * torch.Size(sizes.values()).numel(),
        build=lambda context: build(context, axes, tuple(sizes.values())),
    )


def _inputs(context: Context, shape: tuple[int, ...]) -> list[Tensor]:
    return [random_tensor(context, *shape, seed=seed) for seed in range(3)]


def _forward(context: Context, axes: str, shape: tuple[int, ...]) -> Workload:
    q, k, v = _inputs(context, shape)
    work = Workload(AttentionCheck(q, k, v, axes))
    work.ours(
        context, "axis_attention",
        lambda backend: lambda: (fk.axis_attention(q, k, v, axes, backend=backend),), q, k, v, axes,
    )
    if axes == "vn|tn":
        _union_peers(work, context, q, k, v)
    else:
        _line_peers(work, context, q, k, v, axes)
    if {"N": shape[3], "D": shape[5]} == _COMPILED and context.compile:
        flex = peers.flex_attention(axes, shape, context.device)
        work.compiled_peer(context, "flex_attention, compiled", lambda: lambda: (flex(q, k, v),))
    return work


def _line_peers(work: Workload, context: Context, q: Tensor, k: Tensor, v: Tensor, axes: str) -> None:
    shape = tuple(q.shape)
    if axes == "tn":
        stored = [to_lines(x, axes).contiguous() for x in (q, k, v)]
        work.peer(
            LINES, lambda: (peers.sdpa_lines(*stored),),
            finish=lambda results: (from_lines(results[0], axes, shape),),
        )
        work.peer(ON_GRID, lambda: (peers.sdpa_permuted(q, k, v, axes),))
    else:
        work.peer(PERMUTED, lambda: (peers.sdpa_permuted(q, k, v, axes),))
    if shape[3] <= _NAIVE_TOKENS:
        work.peer("softmax(q k^T) v", lambda: (peers.naive(q, k, v, axes),))
    if {"N": shape[3], "D": shape[5]} == _COMPILED:
        def make() -> Callable[[], tuple[Tensor]]:
            run = compiled(peers.naive, "naive", axes, shape)
            return lambda: (run(q, k, v, axes),)

        work.compiled_peer(context, "softmax(q k^T) v, compiled", make)


def _union_peers(work: Workload, context: Context, q: Tensor, k: Tensor, v: Tensor) -> None:
    work.peer(MERGED, lambda: (fk.axis_attention(q, k, v, "vn|tn", backend="sdpa"),))
    work.peer(GATHERED, lambda: (peers.union_gathered(q, k, v),))
    if q.shape[3] <= _NAIVE_TOKENS:
        mask = peers.union_mask(*q.shape[1:4], context.device)
        work.peer(DENSE, lambda: (peers.union_dense_mask(q, k, v, mask),))


def gradient_call(
    forward: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """Runs the forward once; a call then runs the backward alone."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        out = forward(*leaves)
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def _backward(context: Context, axes: str, shape: tuple[int, ...]) -> Workload:
    inputs = _inputs(context, shape)
    grad = random_tensor(context, *shape, seed=3)
    work = Workload(AttentionCheck(*inputs, axes, grad))

    def ours(backend: str):
        return gradient_call(lambda *x: fk.axis_attention(*x, axes, backend=backend), inputs, grad)

    work.ours(context, "axis_attention", ours, *inputs, axes)
    if shape[3] <= _NAIVE_TOKENS:  # where autograd's own cost could show
        work.ours(
            context, "axis_attention", lambda backend: _operator_backward(inputs, grad, axes, backend), *inputs, axes,
            label=" (operator)",
        )
    if axes == "vn|tn":
        work.peer(GATHERED, gradient_call(peers.union_gathered, inputs, grad))
        if shape[3] <= _LARGE_TOKENS:
            work.peer(MERGED, gradient_call(lambda *x: fk.axis_attention(*x, axes, backend="sdpa"), inputs, grad))
        if shape[3] <= _NAIVE_TOKENS:
            mask = peers.union_mask(*shape[1:4], context.device)
            work.peer(DENSE, gradient_call(lambda *x: peers.union_dense_mask(*x, mask), inputs, grad))
    elif axes == "tn":
        stored = [to_lines(x, axes).contiguous() for x in (*inputs, grad)]
        work.peer(
            LINES, gradient_call(peers.sdpa_lines, stored[:3], stored[3]),
            finish=lambda results: tuple(from_lines(x, axes, shape) for x in results),
        )
        work.peer(ON_GRID, gradient_call(lambda *x: peers.sdpa_permuted(*x, axes), inputs, grad))
    else:
        work.peer(PERMUTED, gradient_call(lambda *x: peers.sdpa_permuted(*x, axes), inputs, grad))
    return work


def _operator_backward(
    inputs: list[Tensor], grad: Tensor, axes: str, backend: str
) -> Callable[[], tuple[Tensor, ...]]:
    """The backward operator itself, without autograd."""
    scale = inputs[0].shape[-1] ** -0.5
    out, lse = torch.ops.fourreal_kernels.axis_attention(*inputs, axes, scale, False, backend)
    backward = torch.ops.fourreal_kernels.axis_attention_backward
    return lambda: backward(grad, None, *inputs, out, lse, axes, scale, False, backend)


class _TwoStreamCheck:
    def __init__(self, view: list[Tensor], time: list[Tensor]):
        self._checks = AttentionCheck(*view, "vn"), AttentionCheck(*time, "tn")

    def __call__(self, results: tuple[Tensor, ...]) -> Deviation:
        both = [check([result]) for check, result in zip(self._checks, results, strict=True)]
        rms = (sum(x.rms**2 for x in both) / len(both)) ** 0.5
        return Deviation(max(x.error for x in both), max(x.relative for x in both), rms)


def _two_stream_case(sizes: dict[str, int]) -> Case:
    return Case(
        suite="attention", op="two_stream_attention", sizes=sizes, main_peer="2 sdpa with permutes",
        flops=sum(attention_flops(axes, sizes, "forward") for axes in ("vn", "tn")),
        build=lambda context: _two_stream(context, tuple(sizes.values())),
    )


def _two_stream(context: Context, shape: tuple[int, ...]) -> Workload:
    view = _inputs(context, shape)
    time = [x.flip(3).contiguous() for x in view]
    work = Workload(_TwoStreamCheck(view, time))
    work.ours(
        context, "two_stream_attention",
        lambda backend: lambda: fk.two_stream_attention(view, time, backend=backend), view, time,
    )
    work.peer(
        "2 sdpa with permutes", lambda: (peers.sdpa_permuted(*view, "vn"), peers.sdpa_permuted(*time, "tn"))
    )
    return work


def extra_case(sizes: dict[str, int], extra: int = _TEXT_TOKENS) -> Case:
    """``vn`` with ``extra`` tokens outside the grid, such as those of a text, that every token attends to."""
    elements = torch.Size(sizes.values()).numel()
    moved = _TENSORS_MOVED["forward"] * elements + 2 * sizes["B"] * extra * sizes["H"] * sizes["D"]
    return Case(
        suite="attention", op="axis_attention", axes="vn", sizes=sizes, variant=f"{extra} extra tokens",
        main_peer=GATHERED, bytes=4.0 * moved,
        flops=attention_flops("vn", sizes, "forward") + float(_FORWARD_FLOPS * elements * extra),
        build=lambda context: _extra(context, tuple(sizes.values()), extra),
    )


def _extra(context: Context, shape: tuple[int, ...], extra: int) -> Workload:
    inputs = _inputs(context, shape)
    keys, values = (random_tensor(context, shape[0], extra, *shape[4:], seed=seed) for seed in (3, 4))
    work = Workload(AttentionCheck(*inputs, "vn", extra=(keys, values)))
    work.ours(
        context, "axis_attention",
        lambda backend: lambda: (
            fk.axis_attention(*inputs, "vn", extra_k=keys, extra_v=values, backend=backend),
        ),
        *inputs, "vn", explained={"extra_k": keys, "extra_v": values},
    )
    work.peer(GATHERED, lambda: (peers.extra_gathered(*inputs, "vn", keys, values),))
    return work
