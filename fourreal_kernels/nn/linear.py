"""Linear layers as other layers use them: without grad on the CPU by oneDNN, which applies bias and GELU itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from ..dispatch import forced

# Multiplications below which choosing a kernel of oneDNN takes longer than it saves.
_FEWEST_PRODUCTS = 1 << 22
_AFTER_PRODUCT = {False: ("none", [], ""), True: ("gelu", [], "tanh")}


def linear(layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
    """``layer(x)``, then ``gelu(., approximate="tanh")`` if asked for.

    :func:`torch.nn.functional.linear` writes the bias to memory, adds the product to it and leaves the GELU to a pass
    of its own. oneDNN does both while the product is in registers; PyTorch has it for Inductor, under a private name
    and without derivatives. It takes the place of a plain float32 :class:`torch.nn.Linear` where no gradient is wanted.
    A layer that is more (an adapter around one, one with hooks or parametrised weights) is called as it is, and so is
    every layer under ``use_backend("reference")``.

    Args:
        layer: a linear layer, C to F channels.
        x: ``(..., C)``.
        gelu: apply the tanh form of GELU to the result.

    Returns:
        ``(..., F)``.
    """
    if _is_plain(layer) and _wants_no_more_than_values() and _suits_onednn(x, layer.weight, layer.bias):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, *_AFTER_PRODUCT[gelu])
    y = layer(x)
    return F.gelu(y, approximate="tanh") if gelu else y


def _is_plain(layer: nn.Module) -> bool:
    """A call would do nothing but multiply and add the bias."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or torch_modules._has_any_global_hook()
    return type(layer) is nn.Linear and "forward" not in vars(layer) and not hooks


def _wants_no_more_than_values() -> bool:
    """No gradient, no graph, no cast, and no plain PyTorch operators in particular."""
    recorded = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return not recorded and not torch.is_autocast_enabled("cpu") and forced(("reference",)) == "auto"


def _suits_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    operands = [x, weight] if bias is None else [x, weight, bias]
    in_fp32_on_cpu = all(
        type(t) in (Tensor, nn.Parameter) and t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous()
        for t in operands
    )
    if not in_fp32_on_cpu or x.shape[-1:] != weight.shape[1:]:
        return False
    return x.numel() * weight.shape[0] >= _FEWEST_PRODUCTS and _has_onednn()


def _has_onednn() -> bool:
    enabled = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise")
