"""Launches of the key-list attention kernels: configurations, strides, compile-time arguments."""

from __future__ import annotations

from collections.abc import Sequence
from math import e, log2
from typing import Any

from torch import Tensor

from ... import tuning
from ...grid import TIME, VIEW, Axes, parse_axes
from .. import triton_support
from ..triton_access import on_device, stride_unit, strides_in
from . import triton_backward, triton_backward_extra, triton_forward
from .call import KeyValue
from .triton_descriptors import describable, describe
from .triton_extra import EVERY_TOKEN, Chunks
from .triton_relation import Relation, block_of_head_dim, gradients_of, joined, matmul_precision


def forward(
    q: Tensor, k: Tensor, v: Tensor, axes: Axes, scale: float, out: Tensor, lse: Tensor, extra: KeyValue | None = None
) -> None:
    """Write the attention output and its log-sum-exp into ``out`` and ``lse``."""
    relation = Relation.of(axes)
    tensors = [relation.seen(x) for x in (q, k, v, out, lse)]
    launch_forward(relation, tensors, scale, configuration("attention_forward", relation, tensors[0]), extra)


def launch_forward(
    relation: Relation, tensors: list[Tensor], scale: float, config: dict[str, int], extra: KeyValue | None = None
) -> None:
    """One launch with a given configuration; ``tensors`` q, k, v, out, lse as the kernel sees them."""
    q, k, v = tensors[:3]
    block = config["BLOCK_K"]
    unit = _unit([*tensors, *(extra or ())])
    arguments: list[Any] = list(tensors)
    by_descriptor = bool(config["DESCRIPTORS"]) and relation.tokens and all(describable(x, block) for x in (k, v))
    if by_descriptor:
        arguments[1:3] = [describe(x, block) for x in (k, v)]
    with on_device(q):
        triton_forward.attention_forward[(relation.programs(q.shape, config["BLOCK_Q"]),)](
            *arguments, *_strides(unit, tensors), *q.shape[1:5], abs(scale) * log2(e), *_extra(unit, extra),
            FRAMES=relation.frames, TOKENS=relation.tokens, DESCRIPTORS=by_descriptor,
            **relation.walk(q.shape, block, [k, v], extra or ()), **_constants(q, unit, scale), **_blocks(config),
        )


def forward_two_streams(view: tuple[Tensor, ...], time: tuple[Tensor, ...], scale: float) -> None:
    """Write out and lse of both streams in one launch; a stream is q, k, v, out, lse."""
    streams = [(Relation.of(parse_axes(axes)), tensors) for axes, tensors in ((VIEW, view), (TIME, time))]
    config = configuration("attention_two_streams", streams[0][0], view[0])
    seen = [(relation, [relation.seen(x) for x in tensors]) for relation, tensors in streams]
    launch_two_streams(seen, scale, config)


def launch_two_streams(
    streams: list[tuple[Relation, list[Tensor]]], scale: float, config: dict[str, int]
) -> None:
    """One launch with a given configuration; the tensors of a stream as the kernel sees them."""
    q = streams[0][1][0]
    programs = [relation.programs(tensors[0].shape, config["BLOCK_Q"]) for relation, tensors in streams]
    walks = [relation.walk(tensors[0].shape, config["BLOCK_K"], tensors[1:3]) for relation, tensors in streams]
    unit = _unit([x for _, tensors in streams for x in tensors])
    arguments = [argument for _, tensors in streams for argument in (*tensors, *_strides(unit, tensors))]
    with on_device(q):
        triton_forward.two_stream_forward[(sum(programs),)](
            *arguments, *q.shape[1:5], abs(scale) * log2(e), programs[0],
            **joined(walks), **_constants(q, unit, scale), **_blocks(config),
        )


def backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    axes: Axes, scale: float, grads: tuple[Tensor, Tensor, Tensor],
    extra: KeyValue | None = None, extra_grads: KeyValue | None = None,
) -> None:
    """Write dq, dk, dv into ``grads``, those of the extra keys and values into ``extra_grads``."""
    relation = Relation.of(axes)
    grad_out, q, k, v, out, lse, *grads = (
        relation.seen(x) for x in (grad_out, q, k, v, out, lse, *grads)
    )
    grad_lse = None if grad_lse is None else relation.seen(grad_lse)
    with on_device(q):
        config = configuration("attention_backward_rows", relation, q)
        rows = launch_rows(relation, out, grad_out, lse, grad_lse, config)
        inputs = [q, k, v, grad_out, *rows]
        by_keys, by_queries = (configuration(f"attention_backward_{x}", relation, q) for x in ("keys", "queries"))
        launch_keys(relation, [*inputs, *grads[1:]], scale, by_keys)
        launch_queries(relation, [*inputs, grads[0]], scale, by_queries, extra)
        if extra is not None:
            launch_extra([q, *extra, grad_out, *rows], extra_grads, scale, by_keys)


def launch_rows(
    relation: Relation, out: Tensor, grad_out: Tensor, lse: Tensor, grad_lse: Tensor | None, config: dict[str, int]
) -> tuple[Tensor, Tensor]:
    """The base-2 log-sum-exp and delta of each query (B, V, T, N, H), evenly spaced along the frame lists."""
    batch, views, times, tokens, heads = lse.shape
    if relation.frames == "views":
        rows = lse.new_empty((2, batch, heads, times, views, tokens)).permute(0, 1, 4, 3, 5, 2)
    else:
        rows = lse.new_empty((2, batch, heads, views, times, tokens)).permute(0, 1, 3, 4, 5, 2)
    unit = _unit([out, grad_out])
    programs = batch * views * times * -(-tokens * heads // config["BLOCK"])
    triton_backward.attention_backward_rows[(programs,)](
        out, grad_out, lse, grad_lse, *rows,
        *_strides(unit, [out, grad_out, lse, lse if grad_lse is None else grad_lse, rows[0]]), *lse.shape[1:],
        HEAD_DIM=out.shape[-1], BLOCK_D=block_of_head_dim(out.shape[-1]), UNIT=unit, **_blocks(config),
    )
    return rows[0], rows[1]


def launch_keys(relation: Relation, tensors: list[Tensor], scale: float, config: dict[str, int]) -> None:
    """dK and dV, by a launch each if the configuration splits them to save registers.

    ``tensors`` are q, k, v, grad_out, the two of :func:`launch_rows`, dk, dv.
    """
    q, grad_out, row = tensors[0], tensors[3], tensors[4]
    unit = _unit(tensors)
    for gradients in gradients_of(config):
        triton_backward.attention_backward_keys[(relation.programs(q.shape, config["BLOCK_K"]),)](
            *tensors, *_strides(unit, [*tensors[:5], *tensors[6:]]), *q.shape[1:5], abs(scale) * log2(e), scale,
            FRAMES=relation.frames, TOKENS=relation.tokens, GRADIENTS=gradients,
            **relation.walk(q.shape, config["BLOCK_Q"], [q, grad_out, row]),
            **_constants(q, unit, scale), **_blocks(config),
        )


def launch_queries(
    relation: Relation, tensors: list[Tensor], scale: float, config: dict[str, int], extra: KeyValue | None = None
) -> None:
    """dQ; ``tensors`` q, k, v, grad_out, the two of :func:`launch_rows`, dq."""
    q, k, v = tensors[:3]
    unit = _unit([*tensors, *(extra or ())])
    triton_backward.attention_backward_queries[(relation.programs(q.shape, config["BLOCK_Q"]),)](
        *tensors, *_strides(unit, [*tensors[:5], tensors[6]]), *q.shape[1:5], abs(scale) * log2(e), scale,
        *_extra(unit, extra), FRAMES=relation.frames, TOKENS=relation.tokens,
        **relation.walk(q.shape, config["BLOCK_K"], [k, v], extra or ()),
        **_constants(q, unit, scale), **_blocks(config),
    )


def launch_extra(tensors: list[Tensor], grads: KeyValue, scale: float, config: dict[str, int]) -> None:
    """Gradients of the extra keys and values, with a configuration of the dK and dV kernel.

    ``tensors`` are q, extra_k, extra_v, grad_out, the two of :func:`launch_rows`.
    """
    q, extra_k, _, grad_out, row = tensors[:5]
    chunks = Chunks.of(q.shape, extra_k.shape[1], config["BLOCK_Q"], config["BLOCK_K"])
    parts = chunks.destinations(grads)
    unit = _unit([*tensors, *parts])
    for gradients in gradients_of(config):
        triton_backward_extra.attention_backward_extra[(chunks.programs,)](
            *tensors, *parts, *_strides(unit, tensors[:5]), *_strides(unit, parts),
            *q.shape[:5], extra_k.shape[1], chunks.rows, abs(scale) * log2(e), scale, GRADIENTS=gradients,
            **EVERY_TOKEN.walk(q.shape, config["BLOCK_Q"], [q, grad_out, row]),
            **_constants(q, unit, scale), **_blocks(config),
        )
    chunks.add(parts, grads)


def configuration(kernel: str, relation: Relation, q: Tensor) -> dict[str, int]:
    """The tuned configuration; its length bucket is the number of queries that share a frame list."""
    return tuning.config(
        kernel, arch=triton_support.arch_of(q.device), head_dim=q.shape[-1], length=relation.rows(q.shape),
        dtype_bytes=q.element_size(),
    )


def _blocks(config: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in config.items() if name not in ("DESCRIPTORS", "SPLIT")}


def _constants(q: Tensor, unit: int, scale: float) -> dict[str, Any]:
    head_dim = q.shape[-1]
    return {
        "NEGATIVE": scale < 0, "PRECISION": matmul_precision(q.dtype), "HEAD_DIM": head_dim,
        "BLOCK_D": block_of_head_dim(head_dim), "UNIT": unit,
    }


def _has_head_dim(x: Tensor) -> bool:
    """Grids (B, V, T, N, H, D) and extra tokens (B, L, H, D), not the rows of a grid (B, V, T, N, H)."""
    return x.ndim != 5


def _unit(tensors: Sequence[Tensor]) -> int:
    """The unit of the strides of all tensors with a head dim."""
    return stride_unit(*(x for x in tensors if _has_head_dim(x)))


def _strides(unit: int, tensors: Sequence[Tensor]) -> list[int]:
    """(batch, view, time, token, head) of each grid, (batch, token, head) of extra tokens."""
    return [stride for x in tensors for stride in (strides_in(unit, x) if _has_head_dim(x) else x.stride())]


def _extra(unit: int, extra: KeyValue | None) -> list[Any]:
    """The arguments of a kernel for the extra tokens, each None without them."""
    return [None] * 9 if extra is None else [*extra, *_strides(unit, extra), extra[0].shape[1]]
