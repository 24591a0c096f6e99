"""The exchange, the fused exchange and QK-norm with rotary embedding against float64 on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import fourreal_kernels as fk

from .block import Job, Result, Settings
from .helpers import exchange_formula as formula
from .helpers import op_layouts, op_numerics, rope_formula

_HALF = torch.bfloat16
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_STREAMS = ((3, 2, 3, 7, 16), (1, 1, 1, 1, 1), (2, 3, 1, 65, 17), (2, 1, 2, 100, 64), (1, 2, 2, 390, 40), (4, 6))
_GRIDS = ((3, 2, 3, 5, 2, 16), (1, 1, 1, 1, 1, 6), (2, 3, 1, 65, 2, 40), (1, 2, 2, 390, 2, 64), (1, 1, 3, 100, 3, 128))


def exchange_jobs(settings: Settings) -> Iterator[Job]:
    """Both operators, both kinds, dense and per channel: functional, in place, gradients."""
    shapes = _STREAMS[:1] if settings.small else _STREAMS
    dtypes = _DTYPES[:1] if settings.small else _DTYPES
    for backend in settings.backends:
        for op in (_EXCHANGE, _EXCHANGE_NORM):
            for kind in formula.KINDS:
                for form in formula.FORMS:
                    for shape in shapes:
                        for dtype in dtypes:
                            size = "x".join(map(str, shape))
                            name = f"{backend}: {op.name} {kind} {form} {size} {op_numerics.dtype_name(dtype)}"
                            yield name, lambda a=(op, backend, kind, form, shape, dtype): _exchange(*a)


class _Exchange:
    """One of the two exchange operators, with its formula and arguments."""

    def __init__(self, name: str, buffers: int, arguments: Callable, plain: Callable):
        self.name, self.buffers = name, buffers
        self.arguments, self.plain = arguments, plain
        self.functional, self.in_place = getattr(fk, name), getattr(fk, f"{name}_")


_EXCHANGE = _Exchange("sync_exchange", 2, formula.exchange_arguments, formula.plain_exchange)
_EXCHANGE_NORM = _Exchange("sync_exchange_norm", 4, formula.exchange_norm_arguments, formula.plain_exchange_norm)


def _exchange(op: _Exchange, backend: str, kind: str, form: str, shape: tuple[int, ...], dtype: torch.dtype) -> Result:
    arguments, keywords = op.arguments(shape, kind, form, dtype=dtype)
    wide_arguments, wide_keywords = formula.cast(arguments, keywords, torch.float64)
    exact = op.plain(*wide_arguments, **wide_keywords)
    plain = op.plain(*arguments, **keywords)
    with torch.no_grad():
        results = op.functional(*arguments, **keywords, backend=backend)
    for got, expected, eager in zip(results, exact, plain, strict=True):
        op_numerics.assert_close_as_pytorch(got, expected, eager)
    _check_in_place(op, arguments, keywords, backend, results)
    found = {"error": max(map(op_numerics.worst_error, results, exact))}
    try:
        error = _check_gradients(op, arguments, keywords, backend)
    except NotImplementedError as refused:
        return found | {"gradients": " ".join(str(refused).split())}
    return found | {"gradient_error": error}


def _check_in_place(op: _Exchange, arguments, keywords, backend: str, results: tuple[Tensor, ...]) -> None:
    """The same bits, in buffers between NaN, and nothing beside them changed."""
    places = [op_numerics.poisoned(tuple(x.shape), x.dtype) for x in arguments[: op.buffers]]
    for place, x in zip(places, arguments[: op.buffers], strict=True):
        place.destination.copy_(x)
    with torch.no_grad():
        written = [place.destination for place in places]
        op.in_place(*written, *arguments[op.buffers :], **keywords, backend=backend)
    for place, expected in zip(places, results, strict=True):
        place.assert_written_exactly()
        assert op_numerics.bitwise_equal(place.destination, expected), "in place differs from the functional form"


def _check_gradients(op: _Exchange, arguments, keywords, backend: str) -> float:
    results = op.plain(*arguments, **keywords)
    grads = [torch.randn(x.shape).to(x.dtype) for x in results]
    ours = _gradients(lambda *a, **k: op.functional(*a, **k, backend=backend), arguments, keywords, grads)
    exact = _gradients(op.plain, *formula.cast(arguments, keywords, torch.float64), grads)
    plain = _gradients(op.plain, arguments, keywords, grads)
    for got, expected, eager in zip(ours, exact, plain, strict=True):
        op_numerics.assert_close_as_pytorch(got, expected, eager)
    return max(map(op_numerics.worst_error, ours, exact))


def _gradients(function: Callable, arguments, keywords, grads: list[Tensor]) -> tuple[Tensor, ...]:
    leaves: list[Tensor] = []

    def leaf(x):
        if not isinstance(x, Tensor):
            return x
        leaves.append(x.detach().clone().requires_grad_())
        return leaves[-1]

    positional = [leaf(x) for x in arguments]
    named = {name: leaf(x) for name, x in keywords.items()}
    results = function(*positional, **named)
    return torch.autograd.grad(results, leaves, [g.to(x.dtype) for g, x in zip(grads, results, strict=True)])


def norm_rope_jobs(settings: Settings) -> Iterator[Job]:
    """Sizes and dtypes, then layouts."""
    for backend in settings.backends:
        for shape in _GRIDS[:1] if settings.small else _GRIDS:
            for dtype in _DTYPES:
                name = f"{backend}: {'x'.join(map(str, shape))} {op_numerics.dtype_name(dtype)}"
                yield name, lambda b=backend, s=shape, d=dtype: _norm_rope(b, s, d, "contiguous")
        for layout in op_layouts.STRIDED[: 1 if settings.small else None]:
            yield f"{backend}: {layout}", lambda b=backend, x=layout: _norm_rope(b, _GRIDS[2], _HALF, x)


def _norm_rope(backend: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Result:
    q, k, *rest = rope_formula.norm_rope_arguments(shape, dtype, angle_dtype=torch.float32)
    weights, angles = rest[:2], rest[2:]
    leaves = [op_layouts.LAYOUTS[layout](x).requires_grad_() for x in (q, k)]
    leaves += [x.requires_grad_() for x in weights]
    results = fk.qk_norm_rope(*leaves, *angles, backend=backend)
    grads = [torch.randn(shape).to(dtype) for _ in range(2)]
    ours = torch.autograd.grad(results, leaves, grads)
    exact, plain = (_norm_rope_formula(name, q, k, weights, angles, grads) for name in ("exact", "plain"))
    for got, expected, eager in zip((*results, *ours), exact, plain, strict=True):
        op_numerics.assert_close_as_pytorch(got.detach(), expected, eager)
    places = [op_numerics.poisoned(shape, dtype) for _ in range(2)]
    for place, x in zip(places, (q, k), strict=True):
        place.destination.copy_(x)
    with torch.no_grad():
        fk.qk_norm_rope_(*(place.destination for place in places), *rest, backend=backend)
    for place, expected in zip(places, results, strict=True):
        place.assert_written_exactly()
        assert op_numerics.bitwise_equal(place.destination, expected.detach()), "in place differs"
    return {"error": max(map(op_numerics.worst_error, results, exact[:2]))}


def _norm_rope_formula(name: str, q, k, weights, angles, grads) -> list[Tensor]:
    """Both results, then the gradients of q, k and both weights, in float64 or in the dtype of q."""
    function = rope_formula.complex_norm_rope if name == "exact" else rope_formula.eager_norm_rope
    dtype = torch.float64 if name == "exact" else q.dtype
    leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, *weights)]
    results = [function(x, weight, *angles) for x, weight in zip(leaves[:2], leaves[2:], strict=True)]
    found = torch.autograd.grad(results, leaves, [grad.to(dtype) for grad in grads])
    return [x.detach() for x in (*results, *found)]
