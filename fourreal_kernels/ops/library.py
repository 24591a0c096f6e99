"""The ``torch.ops.fourreal_kernels`` namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import _len_torch_dispatch_stack_pre_dispatch

from .. import native

library = torch.library.Library("fourreal_kernels", "DEF")
_implementations: dict[str, Callable[..., Any]] = {}


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
    """
    if torch.compiler.is_compiling() or not _runs_alone(arguments):
        return getattr(torch.ops.fourreal_kernels, name)(*arguments)
    return _implementations[name](*arguments)


def _runs_alone(arguments: tuple[Any, ...]) -> bool:
    """True for plain tensors on the CPU that ask for no gradient, while no mode, trace or profile is on."""
    compiled = native.cpu_library()
    return (
        compiled is not None
        and compiled.plain_call(arguments, torch.is_grad_enabled())
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and _len_torch_dispatch_stack_pre_dispatch() == 0
        and torch._C._get_tracing_state() is None
        and not torch.autograd._profiler_enabled()
    )
