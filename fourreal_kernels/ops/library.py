"""The ``torch.ops.fourreal_kernels`` namespace."""

from __future__ import annotations

import torch

library = torch.library.Library("fourreal_kernels", "DEF")


def define(schema: str, implementation, fake) -> None:
    """Define an operator that runs Python on every device, with its fake (shape and stride) function."""
    name = schema.split("(", 1)[0]
    library.define(schema)
    library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fourreal_kernels::{name}", fake, lib=library)


def differentiable(name: str, backward, setup_context) -> None:
    """Attach the backward of a defined operator."""
    torch.library.register_autograd(
        f"fourreal_kernels::{name}", backward, setup_context=setup_context, lib=library
    )
