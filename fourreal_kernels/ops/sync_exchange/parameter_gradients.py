"""Gradients of weight, bias, input_scale and gate from what a pass over the rows gathered."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import accumulation_dtype


def channel_parameter_gradients(sums: Tensor, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None,
                                gate: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of weight, bias, input_scale and gate per channel, in float64.

    ``sums (B, 3 * outputs, C)``: over the rows of a batch entry, of g_o for each output o, then of g_o x_s for each
    output and input stream.
    """
    batch, lists, channels = sums.shape
    outputs = lists // 3
    of_grads, of_products = sums[:, :outputs], sums[:, outputs:].view(batch, outputs, 2, channels)
    gates = 1.0 if gate is None else gate.double().view(batch, outputs, 1, channels)
    scaled = of_products if input_scale is None else of_products * input_scale.double().view(batch, 1, 2, channels)
    weights = weight.double().reshape(1, outputs, 2, channels)
    grad_weight = (scaled * gates).sum(0).view(weight.shape)
    grad_bias = grad_scale = grad_gate = None
    if bias is not None:
        grad_bias = (of_grads if gate is None else of_grads * gates.squeeze(2)).sum(0).flatten()
    if input_scale is not None:
        grad_scale = (of_products * gates * weights).sum(1).flatten(1)
    if gate is not None:
        grad_gate = (scaled * weights).sum(2)
        if bias is not None:
            grad_gate = grad_gate + of_grads * bias.double().view(1, outputs, channels)
        grad_gate = grad_gate.flatten(1)
    return grad_weight, grad_bias, grad_scale, grad_gate


class DenseParameterGradients:
    """Gradients of dense weights and their bias, input_scale and gate, gathered over batch entries."""

    def __init__(self, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None, gate: Tensor | None):
        dtype = accumulation_dtype(weight.dtype)
        values = (weight, bias, input_scale, gate)
        self.weight, self.bias, self.input_scale, self.gate = (None if x is None else x.to(dtype) for x in values)
        self.of_arguments = [None if x is None else torch.zeros_like(x, dtype=dtype) for x in values]

    def _factors(self, entry: int) -> tuple[Tensor | float, Tensor | float]:
        gate = 1.0 if self.gate is None else self.gate[entry, :, None]
        scale = 1.0 if self.input_scale is None else self.input_scale[entry]
        return gate, scale

    def scaled_weight(self, entry: int) -> Tensor:
        gate, scale = self._factors(entry)
        return self.weight * scale * gate

    def gated_weight(self, entry: int) -> Tensor:
        return self.weight * self._factors(entry)[0]

    def add(self, entry: int, products: Tensor, sums: Tensor) -> None:
        gate, scale = self._factors(entry)
        of_weight, of_bias, of_scale, of_gate = self.of_arguments
        of_weight += products * scale * gate
        if of_bias is not None:
            of_bias += sums if self.gate is None else sums * self.gate[entry]
        if of_scale is not None:
            of_scale[entry] += (products * self.weight * gate).sum(0)
        if of_gate is not None:
            of_gate[entry] += (products * self.weight * scale).sum(1)
            if self.bias is not None:
                of_gate[entry] += sums * self.bias
