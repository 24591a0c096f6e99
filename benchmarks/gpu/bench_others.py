"""The memory-bound operators in bfloat16: pointwise attention, the exchanges, QK-norm with rotary embedding."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..case import Case
from ..suites.exchange import exchange_case
from ..suites.norm_rope import norm_rope_case
from ..suites.pointwise import pointwise_case

POINTWISE, EXCHANGE, NORM_ROPE, COMPILED = "gpu_pointwise", "gpu_exchange", "gpu_norm_rope", "gpu_compiled"
_TOKENS = (64, 576, 1560)
_CHANNELS = 1024
_OPERATORS = ("sync_exchange_", "sync_exchange_norm_")
_FORMS = (("hard", True), ("soft", True), ("hard", False), ("soft", False))
_pointwise = partial(pointwise_case, channels=_CHANNELS, dtype=torch.bfloat16)
_exchange = partial(exchange_case, channels=_CHANNELS, dtype=torch.bfloat16)
_norm_rope = partial(norm_rope_case, channels=_CHANNELS, dtype=torch.bfloat16)


def pointwise_cases(small: bool) -> Iterator[Case]:
    """8 entries at every number of tokens, then 16 entries, the union and training at N = 576."""
    if small:
        yield pointwise_case("v", 5, 16, channels=32, dtype=torch.bfloat16, suite=POINTWISE)
        return
    for axes in ("v", "t", "v|t"):
        yield from (_pointwise(axes, tokens, 64, suite=POINTWISE) for tokens in _TOKENS)
    for axes in ("v", "t", "v|t"):
        yield _pointwise(axes, 576, 128, suite=POINTWISE)
    yield from (_pointwise(axes, 576, 64, 16, suite=POINTWISE) for axes in ("v", "t"))
    yield from (_pointwise(axes, 576, 64, direction="forward+backward", suite=POINTWISE) for axes in ("v", "t"))


def exchange_cases(small: bool) -> Iterator[Case]:
    """Every form of both operators."""
    for op in _OPERATORS:
        for kind, per_channel in _FORMS:
            if small:
                yield exchange_case(op, kind, per_channel, 5, 16, dtype=torch.bfloat16, suite=EXCHANGE)
            else:
                yield from (_exchange(op, kind, per_channel, tokens, suite=EXCHANGE) for tokens in _TOKENS)


def norm_rope_cases(small: bool) -> Iterator[Case]:
    if small:
        yield norm_rope_case(5, 16, 32, dtype=torch.bfloat16, suite=NORM_ROPE)
        return
    for head_dim in (64, 128):
        yield from (_norm_rope(tokens, head_dim, suite=NORM_ROPE) for tokens in _TOKENS)


def compiled_cases(small: bool) -> Iterator[Case]:
    """One size of each, beside what torch.compile makes of the eager form."""
    if small:
        yield norm_rope_case(5, 16, 32, dtype=torch.bfloat16, suite=COMPILED)
        return
    yield _norm_rope(576, 64, suite=COMPILED)
    yield from (_exchange(op, "soft", True, 576, suite=COMPILED) for op in _OPERATORS)
    yield from (_pointwise(axes, 576, 64, suite=COMPILED) for axes in ("v", "v|t"))
