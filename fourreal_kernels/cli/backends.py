"""Which backends the operators of a model run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .. import dispatch
from ..grid import TIME, VIEW, VIEW_OR_TIME
from ..model.transformer import GridTransformer
from .errors import UserError

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def backend_context(backend: str) -> AbstractContextManager:
    """Use the backend of ``--backend`` wherever an operator has it."""
    return nullcontext() if backend == "auto" else dispatch.use_backend(backend)


def chosen_backends(model: GridTransformer, views: int, times: int, backend: str) -> dict[str, str]:
    """The backend of each operator when ``model`` generates a grid of ``views`` x ``times`` frames.

    Nothing is computed.

    Args:
        backend: ``"auto"`` or a backend name.

    Raises:
        UserError: an operator cannot run on the backend, or none of them has it.
    """
    chosen = {}
    with torch.no_grad(), backend_context(backend):
        for op, args, kwargs in _operator_calls(model, views, times):
            explanation = dispatch.explain(op, *args, **kwargs)
            if explanation.chosen is None:
                reason = explanation.reasons.get(backend, "no backend accepts this model")
                raise UserError(f"argument --backend: {backend!r} cannot run {op}: {reason}")
            chosen[op] = explanation.chosen
    if backend != "auto" and backend not in chosen.values():
        raise UserError(f"argument --backend: none of the model's operators ({', '.join(chosen)}) has {backend!r}")
    return chosen


def _operator_calls(model: GridTransformer, views: int, times: int) -> Iterator[Call]:
    """One call of each operator and axes, with the shapes and strides of the model but without its values."""
    config = model.config
    device = next(model.parameters()).device
    tokens = torch.empty(1, views, times, config.token_height * config.token_width, config.dim, device=device)
    q, k, v = tokens.repeat(1, 1, 1, 1, 3).unflatten(-1, (3, config.heads, -1)).unbind(-3)
    view_index, time_index = torch.arange(views, device=device), torch.arange(times, device=device)
    attention = model.blocks[0].attention
    passes = {"sequential": (VIEW, TIME), "fused": (VIEW_OR_TIME,)}.get(config.mode, ())
    for axes in passes or (VIEW,):
        angles = model.rope(axes, view_index, time_index)
        yield "qk_norm_rope_", (q, k, attention.q_weight, attention.k_weight, *angles), {}
    for axes in passes:
        yield "axis_attention", (q, k, v, axes), {}
    if not passes:
        yield "two_stream_attention", ((q, k, v), (q, k, v)), {}
        sync = model.sync[0]
        gate, input_scale = sync.bias[None], tokens.new_ones(1, 2 * config.dim)
        kwargs = {"kind": sync.kind, "input_scale": input_scale, "gate": gate}
        yield "sync_exchange_", (tokens, tokens.clone(), sync.weight, sync.bias), kwargs
