"""Functions compiled once for all numbers of tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor

_TOKEN_DIM = 3
# Many cases share the source of a peer: each shape keeps its own graph, and none may fall back to eager.
_MANY = 10_000
_compiled: dict[tuple[Hashable, ...], Callable[..., Any]] = {}


def prepare_compiler() -> None:
    """Forget earlier graphs, allow one per shape, and let no size but N become a variable."""
    _compiled.clear()
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = _MANY
    torch._dynamo.config.accumulated_recompile_limit = _MANY
    torch._dynamo.config.automatic_dynamic_shapes = False


def compiled(function: Callable[..., Any], *key: Hashable, vary: Iterable[Tensor] = ()) -> Callable[..., Any]:
    """``torch.compile`` of ``function``, or of the function first given for ``key``, which must compute the same.

    A graph break is an error.

    Args:
        vary: arguments whose N (dim 3) is to be a variable of the compiled code: it is as fast as with N fixed, and
            compiled once, not once per N.
    """
    for x in vary:
        torch._dynamo.mark_dynamic(x, _TOKEN_DIM)
    if key not in _compiled:
        _compiled[key] = torch.compile(function, fullgraph=True)
    return _compiled[key]
