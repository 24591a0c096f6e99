"""The exchange between the streams, in place: per channel, dense, and fused with residual, gate and LayerNorm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import fourreal_kernels as fk

from ..case import Case, Context, Results, Workload, random_tensor
from ..check import Deviation, deviation, edge_tokens
from ..peers import exchange as peers
from ..peers.compiled import compiled

_TOKENS = (64, 144, 576)
_CHANNELS = 512
_FORMS = (("hard", True), ("soft", True), ("hard", False), ("soft", False))
_EXCHANGE, _FUSED = "sync_exchange_", "sync_exchange_norm_"
# Streams read and written; the fused form also reads and writes the branches.
_STREAMS_MOVED = {_EXCHANGE: 4, _FUSED: 8}


def cases(quick: bool) -> Iterator[Case]:
    """Every form of the exchange, then every form of the fused one."""
    for op in (_EXCHANGE, _FUSED):
        for kind, per_channel in _FORMS:
            for tokens in (64,) if quick else _TOKENS:
                yield exchange_case(op, kind, per_channel, tokens)


def exchange_case(
    op: str, kind: str, per_channel: bool, tokens: int, channels: int = _CHANNELS, *,
    dtype: torch.dtype = torch.float32, suite: str = "exchange",
) -> Case:
    sizes = {"B": 1, "V": 8, "T": 8, "N": tokens, "C": channels}
    shape = tuple(sizes.values())
    count = torch.Size(shape).numel()
    outputs = 1 if kind == "hard" else 2
    build = _exchange if op == _EXCHANGE else _fused
    return Case(
        suite=suite, op=op, dtype=dtype, sizes=sizes, variant=f"{kind}, {'per channel' if per_channel else 'dense'}",
        output="in place", main_peer="eager",
        flops=2.0 * count * outputs * (2 if per_channel else 2 * channels),
        bytes=float(dtype.itemsize * _STREAMS_MOVED[op] * count),
        build=lambda context: build(context, kind, per_channel, shape, dtype),
    )


class _Buffers:
    """Streams that calls overwrite, restored from copies outside of the timed part."""

    def __init__(self, context: Context, count: int, shape: tuple[int, ...], dtype: torch.dtype):
        self.pristine = [random_tensor(context, *shape, seed=seed, dtype=dtype) for seed in range(count)]
        self.working = [x.clone() for x in self.pristine]

    def refresh(self) -> None:
        for x, source in zip(self.working, self.pristine, strict=True):
            x.copy_(source)

    def call(self, function: Callable[..., object], *arguments: Any, **keywords: Any) -> Callable[[], Results]:
        """The call of ``function`` on the buffers, which are its results."""

        def run() -> Results:
            function(*self.working, *arguments, **keywords)
            return tuple(self.working)

        return run

    def check(self, expected: Callable[..., None]) -> Callable[[Results], Deviation]:
        """Compares the first and the last tokens of a frame with ``expected`` in float64, which works in place."""
        tokens = edge_tokens(self.pristine[0].shape[3])
        wanted = [x[:, :, :, tokens].double() for x in self.pristine]
        expected(*wanted)
        return lambda results: deviation([x[:, :, :, tokens] for x in results], wanted)


def _parameters(
    context: Context, kind: str, per_channel: bool, batch: int, channels: int, dtype: torch.dtype
) -> peers.Parameters:
    """Weights small enough that repeated calls in place do not grow."""
    outputs = channels if kind == "hard" else 2 * channels
    per_channel_shape = (2, channels) if kind == "hard" else (2, 2, channels)
    shape = per_channel_shape if per_channel else (outputs, 2 * channels)
    size = 0.3 if per_channel else 0.5 * channels**-0.5
    return peers.Parameters(
        weight=size * random_tensor(context, *shape, seed=10, dtype=dtype),
        bias=0.1 * random_tensor(context, outputs, seed=11, dtype=dtype),
        input_scale=1 + 0.1 * random_tensor(context, batch, 2 * channels, seed=12, dtype=dtype),
        gate=0.5 + 0.1 * random_tensor(context, batch, outputs, seed=13, dtype=dtype),
    )


def _exchange(
    context: Context, kind: str, per_channel: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> Workload:
    buffers = _Buffers(context, 2, shape, dtype)
    parameters = _parameters(context, kind, per_channel, shape[0], shape[-1], dtype)
    keywords = {"kind": kind, "input_scale": parameters.input_scale, "gate": parameters.gate}
    weights = (parameters.weight, parameters.bias)

    def expected(view: Tensor, time: Tensor) -> None:
        wide = parameters.double()
        fk.sync_exchange_(
            view, time, wide.weight, wide.bias, kind=kind, input_scale=wide.input_scale, gate=wide.gate,
            backend="reference",
        )

    work = Workload(buffers.check(expected))
    work.ours(
        context, _EXCHANGE, lambda backend: buffers.call(fk.sync_exchange_, *weights, **keywords, backend=backend),
        *buffers.working, *weights, explained=keywords, refresh=buffers.refresh,
    )
    arguments = (parameters, kind, per_channel)
    work.peer("eager", buffers.call(peers.exchange_, *arguments), refresh=buffers.refresh)
    if per_channel:
        folded = buffers.call(peers.folded_channel_, parameters, kind)
        work.peer("eager, folded weights", folded, refresh=buffers.refresh)
    _add_compiled(work, context, buffers, peers.exchange_, arguments)
    return work


def _fused(context: Context, kind: str, per_channel: bool, shape: tuple[int, ...], dtype: torch.dtype) -> Workload:
    buffers = _Buffers(context, 4, shape, dtype)
    batch, channels = shape[0], shape[-1]
    parameters = _parameters(context, kind, per_channel, batch, channels, dtype)
    branch_gate, norm_scale, norm_shift = (
        0.1 * random_tensor(context, batch, 2 * channels, seed=seed, dtype=dtype) for seed in (20, 21, 22)
    )
    modulation = {"branch_gate": branch_gate, "norm_scale": norm_scale, "norm_shift": norm_shift}
    keywords = {"kind": kind, "input_scale": parameters.input_scale, "gate": parameters.gate} | modulation
    weights = (parameters.weight, parameters.bias)

    def expected(*streams: Tensor) -> None:
        wide = {name: x.double() for name, x in modulation.items()}
        peers.exchange_norm_(*streams, parameters.double(), kind, per_channel, **wide)

    def ours(backend: str) -> Callable[[], Results]:
        return buffers.call(fk.sync_exchange_norm_, *weights, **keywords, backend=backend)

    work = Workload(buffers.check(expected))
    work.ours(context, _FUSED, ours, *buffers.working, *weights, explained=keywords, refresh=buffers.refresh)
    arguments = (parameters, kind, per_channel, branch_gate, norm_scale, norm_shift)
    work.peer("eager", buffers.call(peers.exchange_norm_, *arguments), refresh=buffers.refresh)
    _add_compiled(work, context, buffers, peers.exchange_norm_, arguments)
    return work


def _add_compiled(
    work: Workload, context: Context, buffers: _Buffers, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    kind, per_channel = arguments[1:3]

    def make() -> Callable[[], Results]:
        run = compiled(function, function.__name__, kind, per_channel, vary=buffers.working)
        return buffers.call(run, *arguments)

    work.compiled_peer(context, "compiled", make, refresh=buffers.refresh)
