"""QK-norm with rotary embedding, in place on queries and keys."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import fourreal_kernels as fk

from ..case import Case, Context, Results, Workload, random_tensor
from ..check import Deviation, deviation, edge_tokens
from ..peers.compiled import compiled
from ..peers.norm_rope import norm_rope_

_TOKENS = (36, 64, 144, 240, 576)
_CHANNELS = 512
_TENSORS_MOVED = 4  # q and k, read and written


def cases(quick: bool) -> Iterator[Case]:
    for head_dim in (64, 40) if quick else (64, 128, 40):
        for tokens in (36,) if quick else _TOKENS:
            yield norm_rope_case(tokens, head_dim)


def norm_rope_case(
    tokens: int, head_dim: int, channels: int = _CHANNELS, *, dtype: torch.dtype = torch.float32,
    suite: str = "norm_rope",
) -> Case:
    sizes = {"B": 1, "V": 8, "T": 8, "N": tokens, "H": channels // head_dim, "D": head_dim}
    shape = tuple(sizes.values())
    return Case(
        suite=suite, op="qk_norm_rope_", dtype=dtype, sizes=sizes, output="in place", main_peer="eager",
        bytes=float(dtype.itemsize * _TENSORS_MOVED * torch.Size(shape).numel()),
        build=lambda context: _build(context, shape, dtype),
    )


def _build(context: Context, shape: tuple[int, ...], dtype: torch.dtype) -> Workload:
    head_dim = shape[-1]
    pristine = [random_tensor(context, *shape, seed=seed, dtype=dtype) for seed in (0, 1)]
    working = [x.clone() for x in pristine]
    weights = [1 + 0.1 * random_tensor(context, head_dim, seed=seed, dtype=dtype) for seed in (2, 3)]
    angles = random_tensor(context, *shape[:4], head_dim // 2, seed=4, dtype=dtype)
    arguments = (*working, *weights, angles.cos(), angles.sin())

    def refresh() -> None:
        for x, source in zip(working, pristine, strict=True):
            x.copy_(source)

    def call(function):
        def run() -> Results:
            function(*arguments)
            return tuple(working)

        return run

    def check(results: Results) -> Deviation:
        return deviation([x[:, :, :, tokens] for x in results], expected)

    tokens = edge_tokens(shape[3])
    cos, sin = (x[:, :, :, tokens].double() for x in arguments[4:])
    expected = fk.qk_norm_rope(
        *(x[:, :, :, tokens].double() for x in pristine), *(x.double() for x in weights), cos, sin, backend="reference"
    )
    work = Workload(check)
    work.ours(
        context, "qk_norm_rope_",
        lambda backend: call(lambda *x: fk.qk_norm_rope_(*x, backend=backend)), *arguments, refresh=refresh,
    )
    work.peer("eager", call(norm_rope_), refresh=refresh)
    vary = [*working, *arguments[4:]]
    work.compiled_peer(
        context, "compiled", lambda: call(compiled(norm_rope_, "norm_rope_", head_dim, vary=vary)), refresh=refresh
    )
    return work
