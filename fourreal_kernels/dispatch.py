"""Which backend runs an operator, what else could run, and why not.

A backend of an operator is a module ``fourreal_kernels.ops.<op>.<backend>`` with two functions:

* ``unavailable() -> str | None``: why the backend cannot run on this machine at all (not built, not installed);
* ``refusal(call) -> str | None``: why it cannot run this call (dtype, device, form).

Modules are imported when first asked for, so that importing the library needs neither a compiled library nor Triton
nor a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

BACKENDS = ("reference", "sdpa", "cpu", "triton", "cuda")


@dataclass(frozen=True)
class Operator:
    """How the backends of one public operator are found.

    ``auto`` lists, per device type, the backends that ``backend=None`` tries in order: the fastest that has been shown
    correct on that kind of device first. ``describe`` turns the operator's public arguments into the ``call`` that
    ``refusal`` judges; it raises what the operator itself raises on bad arguments.
    """

    name: str
    package: str
    backends: tuple[str, ...]
    auto: dict[str, tuple[str, ...]]
    describe: Callable[..., Any]


@dataclass(frozen=True)
class Explanation:
    """Answer of :func:`explain`: the chosen backend and, for each backend, why it would or would not run."""

    op: str
    chosen: str | None
    reasons: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.chosen or 'no backend'}"]
        lines += [f"  {name:<10} {reason}" for name, reason in self.reasons.items()]
        return "\n".join(lines)


_operators: dict[str, Operator] = {}
_forced: list[str] = []


def register(operator: Operator) -> None:
    """Make an operator known to :func:`available_backends`, :func:`explain` and :func:`use_backend`."""
    _operators[operator.name] = operator


def operators() -> tuple[Operator, ...]:
    """Every registered operator."""
    return tuple(_operators.values())


def _operator(op: str) -> Operator:
    if op not in _operators:
        raise ValueError(f"op: got {op!r}, expected one of {', '.join(sorted(_operators))}")
    return _operators[op]


def _check_name(backend: object) -> None:
    if not isinstance(backend, str):
        raise TypeError(f"backend: expected a string or None, got {type(backend).__name__}")
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(BACKENDS)}, or None for the fastest")


def requested(backend: str | None) -> str:
    """The name to carry into a registered operator for the public argument ``backend``.

    Raises:
        TypeError, ValueError: ``backend`` is not a backend name.
    """
    if backend is None:
        return "auto"
    _check_name(backend)
    return backend


@cache
def load(op: str, backend: str) -> ModuleType:
    """Import the module of one backend of one operator."""
    return import_module(f"{_operator(op).package}.{backend}")


def _why_not(op: Operator, backend: str, call: Any) -> str | None:
    if backend not in op.backends:
        return f"{op.name} has no {backend} backend"
    module = load(op.name, backend)
    return module.unavailable() or module.refusal(call)


def forced(backends: tuple[str, ...]) -> str:
    """Which of ``backends`` the innermost :func:`use_backend` that names one asks for, else ``"auto"``."""
    return next((name for name in reversed(_forced) if name == "auto" or name in backends), "auto")


def select(op_name: str, call: Any, backend: str) -> str:
    """Name of the backend that runs ``call``.

    An explicit ``backend`` never falls back. ``"auto"`` obeys :func:`use_backend` for the operators that have the
    named backend, then takes the first of the operator's list that accepts the call.

    Raises:
        NotImplementedError: the explicit backend refuses the call, or no backend accepts it.
    """
    op = _operator(op_name)
    if backend == "auto":
        backend = forced(op.backends)
    if backend != "auto":
        reason = _why_not(op, backend, call)
        if reason:
            raise NotImplementedError(
                f"backend: {backend!r} cannot run this {op.name} call: {reason}. "
                f"Pass backend=None, or see fourreal_kernels.explain({op.name!r}, ...)."
            )
        return backend
    reasons = []
    for name in op.auto.get(call.device.type, ("reference",)):
        reason = _why_not(op, name, call)
        if reason is None:
            return name
        reasons.append(f"{name}: {reason}")
    raise NotImplementedError(f"{op.name}: no backend accepts this call ({'; '.join(reasons)})")


def available_backends(op: str) -> list[str]:
    """Backends of ``op`` that can be loaded on this machine (each may still refuse a particular call).

    Raises:
        ValueError: ``op`` is not the name of a public operator.
    """
    operator = _operator(op)
    return [name for name in operator.backends if load(op, name).unavailable() is None]


def explain(op: str, *args: Any, **kwargs: Any) -> Explanation:
    """Which backend would run ``op(*args, **kwargs)``, and why each other one would not. Nothing is computed.

    Raises:
        ValueError: ``op`` is not the name of a public operator.
        Exception: what the operator itself raises on these arguments, but for overlapping buffers.
    """
    operator = _operator(op)
    call = operator.describe(*args, **kwargs)
    backend = requested(kwargs.get("backend"))
    try:
        chosen: str | None = select(op, call, backend)
    except NotImplementedError:
        chosen = None
    reasons = {}
    for name in BACKENDS:
        why_not = _why_not(operator, name, call)
        if name == chosen:
            reasons[name] = "chosen"
        elif why_not is not None:
            reasons[name] = why_not
        else:
            order = operator.auto.get(call.device.type, ())
            reasons[name] = "can run; not the fastest here" if name in order else "can run; only when named"
    return Explanation(op, chosen, reasons)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Use one backend wherever ``backend=None`` was passed, for every operator that has it.

    Other operators follow the next enclosing context that names a backend they have, else stay automatic.

    Process-wide while the context is open (backward passes run in threads of their own), as
    ``torch.nn.attention.sdpa_kernel`` is.

    Raises:
        TypeError, ValueError: ``name`` is not a backend name.
    """
    _check_name(name)
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()
