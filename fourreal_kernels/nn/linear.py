"""Linear layers as other layers use them: without grad on the CPU by oneDNN, which applies bias and GELU itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

# Multiplications below which choosing a kernel of oneDNN takes longer than it saves.
_FEWEST_PRODUCTS = 1 << 22
_AFTER_PRODUCT = {False: ("none", [], ""), True: ("gelu", [], "tanh")}


def linear(layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
    """``layer(x)``, then ``gelu(., approximate="tanh")`` if asked for.

    ``torch.nn.functional.linear`` writes the bias to memory, adds the product to it and leaves the GELU to a pass of
    its own. oneDNN does both while the product is in registers; PyTorch offers it to Inductor, under a private name,
    without derivatives. A ``layer`` that is more than a plain :class:`torch.nn.Linear` (an adapter around one, one
    with hooks, one with parametrised weights) is called as it is.

    Args:
        layer: a linear layer, C to F channels.
        x: ``(..., C)``.
        gelu: apply the tanh form of GELU to the result.

    Returns:
        ``(..., F)``.
    """
    if _is_plain(layer) and _by_onednn(x, layer.weight, layer.bias):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, *_AFTER_PRODUCT[gelu])
    y = layer(x)
    return F.gelu(y, approximate="tanh") if gelu else y


def _is_plain(layer: nn.Module) -> bool:
    """Nothing but product and bias would happen if the layer was called."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or torch_modules._has_any_global_hook()
    return type(layer) is nn.Linear and "forward" not in vars(layer) and not hooks


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    operands = [x, weight] if bias is None else [x, weight, bias]
    in_fp32_on_cpu = all(
        type(t) in (Tensor, nn.Parameter) and t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous()
        for t in operands
    )
    return in_fp32_on_cpu and x.numel() * weight.shape[0] >= _FEWEST_PRODUCTS and _has_onednn()


def _has_onednn() -> bool:
    enabled = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise")
