"""The ``torch.ops.fourreal_kernels`` namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from .. import native

library = torch.library.Library("fourreal_kernels", "DEF")
_implementations: dict[str, Callable[..., Any]] = {}
# What torch keeps to itself about modes and traces. Versions that lack some of it always take the dispatcher.
_MODES = [
    getattr(module, name, None)
    for module, name in (
        (torch._C, "_len_torch_dispatch_stack"),
        (torch._C, "_len_torch_function_stack"),
        (torch._ops, "_len_torch_dispatch_stack_pre_dispatch"),
    )
]
_TRACING = getattr(torch._C, "_get_tracing_state", None)
_PROFILING = getattr(torch.autograd, "_profiler_enabled", None)
_READABLE = None not in (*_MODES, _TRACING, _PROFILING)


def define(schema: str, implementation, fake) -> None:
    """Define an operator that runs Python on every device, with its fake (shape and stride) function."""
    name = schema.split("(", 1)[0]
    library.define(schema)
    library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fourreal_kernels::{name}", fake, lib=library)
    _implementations[name] = implementation


def differentiable(name: str, backward, setup_context) -> None:
    """Attach the backward of a defined operator."""
    torch.library.register_autograd(
        f"fourreal_kernels::{name}", backward, setup_context=setup_context, lib=library
    )


def call(name: str, *arguments: Any) -> Any:
    """``torch.ops.fourreal_kernels.<name>(*arguments)``.

    Where torch's dispatcher would do nothing but run the implementation, that is called directly: between kernels that
    empty the caches the way through the dispatcher takes 50 to 100 microseconds on a CPU.

    Raises:
        NotImplementedError: an argument has a tangent of forward-mode differentiation, which would be lost.
    """
    operator = getattr(torch.ops.fourreal_kernels, name)
    if torch.compiler.is_compiling():
        return operator(*arguments)
    if getattr(forward_ad, "_current_level", -1) >= 0:
        _refuse_tangents(name, arguments)
    return _implementations[name](*arguments) if _runs_alone(arguments) else operator(*arguments)


def _runs_alone(arguments: tuple[Any, ...]) -> bool:
    """True for plain tensors on the CPU that ask for no gradient, while no mode, trace or profile is on."""
    compiled = native.cpu_library()
    return (
        _READABLE
        and compiled is not None
        and compiled.plain_call(arguments, torch.is_grad_enabled())
        and not any(count() for count in _MODES)
        and _TRACING() is None
        and not _PROFILING()
    )


def _refuse_tangents(name: str, arguments: tuple[Any, ...]) -> None:
    for x in arguments:
        if isinstance(x, torch.Tensor) and forward_ad.unpack_dual(x).tangent is not None:
            raise NotImplementedError(
                f"{name}: got a tensor with a forward-mode tangent, which has no formula here; use reverse mode"
            )
