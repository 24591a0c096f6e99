"""Attention at one spatial position: along views, along timesteps, and their union."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import fourreal_kernels as fk

from ..case import Case, Context, Workload, random_tensor
from ..peers import attention as attention_peers
from ..peers import pointwise as peers
from ..peers.compiled import compiled
from ..references import PointwiseCheck
from .attention import TOKENS, attention_flops

_CHANNELS = 512
_ENTRIES = 8
# The other axis is shorter beside long ones, so that tensors stay below 200 MB.
_OTHER = {8: 8, 16: 4, 21: 4}
_SOME_TOKENS = (36, 144, 576)
_TRAINING = "forward+backward"
# Of q, k, v and the output; training also reads those again with its gradient and writes three gradients.
_TENSORS_MOVED = {"forward": 4, _TRAINING: 12}

SDPA = "permute + sdpa + permute"
MASKED = "masked sdpa"
EINSUM = "einsum"
COMPILED = "einsum, compiled"
COMPILED_PRODUCTS = "products, compiled"


def cases(quick: bool) -> Iterator[Case]:
    """8 entries into a given output, then other lengths, head dims, a fresh output, the union and training."""
    if quick:
        yield from (pointwise_case(axes, 36, 64) for axes in ("v", "t", "v|t"))
        yield pointwise_case("v", 36, 64, direction=_TRAINING)
        return
    axis = ("v", "t")
    for head_dim in (64, 128):
        yield from (pointwise_case(axes, tokens, head_dim) for axes in axis for tokens in TOKENS)
    for entries in (16, 21):
        yield from (pointwise_case(axes, tokens, 64, entries) for axes in axis for tokens in _SOME_TOKENS)
    yield from (pointwise_case(axes, tokens, 40) for axes in axis for tokens in _SOME_TOKENS)
    yield from (pointwise_case(axes, tokens, 64, output="fresh") for axes in axis for tokens in _SOME_TOKENS)
    yield from (pointwise_case("v|t", tokens, head_dim) for head_dim in (64, 128) for tokens in _SOME_TOKENS)
    for entries in (8, 16):
        yield from (
            pointwise_case(axes, tokens, 64, entries, direction=_TRAINING)
            for axes in axis for tokens in _SOME_TOKENS
        )


def pointwise_case(
    axes: str, tokens: int, head_dim: int, entries: int = _ENTRIES, *, direction: str = "forward",
    output: str = "given", channels: int = _CHANNELS, dtype: torch.dtype = torch.float32, suite: str = "pointwise",
) -> Case:
    """``entries`` is the length of the axis, of both axes for the union."""
    views = entries if "v" in axes else _OTHER[entries]
    times = entries if "t" in axes else _OTHER[entries]
    sizes = {"B": 1, "V": views, "T": times, "N": tokens, "H": channels // head_dim, "D": head_dim}
    shape = tuple(sizes.values())
    flops = attention_flops(axes, sizes, "forward")
    build = {"given": _given, "fresh": _fresh}[output]
    if direction == _TRAINING:
        flops += attention_flops(axes, sizes, "backward")
        build, output = _training, "fresh"
    return Case(
        suite=suite, op="axis_attention", dtype=dtype, axes=axes, sizes=sizes, variant=f"{entries} entries",
        direction=direction, output=output, flops=flops,
        bytes=float(dtype.itemsize * _TENSORS_MOVED[direction] * torch.Size(shape).numel()),
        main_peer=MASKED if axes == "v|t" else SDPA,
        build=lambda context: build(context, axes, shape, dtype),
    )


def _forms(axes: str, shape: tuple[int, ...], device: torch.device) -> tuple[dict[str, peers.Form], ...]:
    """The stock forms that run as they are, and those that are compiled.

    Products summed over D were 1.2 to 1.7 times faster than einsum at 8 entries when both were
    compiled, and slower at more: they are compiled beside einsum up to 8.
    """
    if axes == "v|t":
        mask = attention_peers.union_mask(*shape[1:3], 1, device)
        eager = {MASKED: peers.union_masked_sdpa(mask), EINSUM: peers.union_einsum}
        return eager, {COMPILED: peers.union_einsum, COMPILED_PRODUCTS: peers.union_products}
    eager = {SDPA: peers.sdpa(axes), EINSUM: peers.einsum(axes)}
    to_compile = {COMPILED: peers.einsum(axes)}
    if max(shape[1:3]) <= _ENTRIES:
        to_compile[COMPILED_PRODUCTS] = peers.products(axes)
    return eager, to_compile


def _inputs(context: Context, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    return [random_tensor(context, *shape, seed=seed, dtype=dtype) for seed in range(3)]


def _given(context: Context, axes: str, shape: tuple[int, ...], dtype: torch.dtype) -> Workload:
    """Every provider writes into the same given output."""
    inputs = _inputs(context, shape, dtype)
    out = torch.empty_like(inputs[0])

    def forget() -> None:
        """So that no provider is credited with what the one before wrote."""
        out.fill_(float("nan"))

    def into(form: Callable[..., Tensor]) -> Callable[..., None]:
        def write(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
            out.copy_(form(q, k, v))

        return write

    def call(write: Callable[..., None]) -> Callable[[], tuple[Tensor]]:
        def run() -> tuple[Tensor]:
            write(*inputs, out)
            return (out,)

        return run

    def ours(backend: str) -> Callable[[], tuple[Tensor]]:
        return lambda: (fk.axis_attention(*inputs, axes, out=out, backend=backend),)

    work = Workload(PointwiseCheck(*inputs, axes))
    work.ours(context, "axis_attention", ours, *inputs, axes, explained={"out": out}, refresh=forget)
    eager, to_compile = _forms(axes, shape, context.device)
    for name, form in eager.items():
        work.peer(name, call(into(form)), refresh=forget)
    for name, form in to_compile.items():
        key = (name, axes, "given", _without_tokens(shape))
        work.compiled_peer(
            context, name, lambda form=form, key=key: call(compiled(into(form), *key, vary=[*inputs, out])),
            refresh=forget,
        )
    return work


def _without_tokens(shape: tuple[int, ...]) -> tuple[int, ...]:
    """What a compiled form depends on."""
    return shape[:3] + shape[4:]


def _fresh(context: Context, axes: str, shape: tuple[int, ...], dtype: torch.dtype) -> Workload:
    """Every provider returns a new contiguous grid."""
    inputs = _inputs(context, shape, dtype)
    work = Workload(PointwiseCheck(*inputs, axes))
    work.ours(
        context, "axis_attention",
        lambda backend: lambda: (fk.axis_attention(*inputs, axes, backend=backend),), *inputs, axes,
    )
    _add_peers(work, context, axes, inputs, lambda form: lambda: (form(*inputs),))
    return work


def _add_peers(work: Workload, context: Context, axes: str, inputs: list[Tensor], call) -> None:
    """The stock forms with a contiguous result; ``call`` makes the call of a form."""

    def contiguous(form: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda q, k, v: form(q, k, v).contiguous()

    shape = tuple(inputs[0].shape)
    eager, to_compile = _forms(axes, shape, context.device)
    for name, form in eager.items():
        work.peer(name, call(contiguous(form)))
    for name, form in to_compile.items():
        key = (name, axes, inputs[0].requires_grad, _without_tokens(shape))
        work.compiled_peer(
            context, name, lambda form=form, key=key: call(compiled(contiguous(form), *key, vary=inputs))
        )


def _training(context: Context, axes: str, shape: tuple[int, ...], dtype: torch.dtype) -> Workload:
    """The forward and then the gradients of q, k and v, all in new memory."""
    inputs = [x.requires_grad_() for x in _inputs(context, shape, dtype)]
    grad = random_tensor(context, *shape, seed=3, dtype=dtype)

    def call(form: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            with torch.enable_grad():
                out = form(*inputs)
            return out.detach(), *torch.autograd.grad(out, inputs, grad)

        return run

    work = Workload(PointwiseCheck(*inputs, axes, grad))
    work.ours(
        context, "axis_attention",
        lambda backend: call(lambda q, k, v: fk.axis_attention(q, k, v, axes, backend=backend)), *inputs, axes,
    )
    _add_peers(work, context, axes, inputs, call)
    return work
