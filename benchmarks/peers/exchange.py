"""The exchange between two streams in eager PyTorch, in place on both, also with what surrounds it in a block.

Eager forms write into buffers where that saves memory traffic. ``x[:, :C]`` of a ``(B, 2C)`` parameter is the view
stream's part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Parameters:
    """Of an exchange, as :func:`fourreal_kernels.sync_exchange` takes them."""

    weight: Tensor
    bias: Tensor
    input_scale: Tensor
    gate: Tensor

    def double(self) -> Parameters:
        return Parameters(*(x.double() for x in (self.weight, self.bias, self.input_scale, self.gate)))


def _per_token(x: Tensor) -> Tensor:
    """``(B, K)`` to ``(B, 1, 1, 1, K)``."""
    return x[:, None, None, None]


def exchange_(view: Tensor, time: Tensor, parameters: Parameters, kind: str, per_channel: bool) -> None:
    """:func:`fourreal_kernels.sync_exchange_` as one writes it in PyTorch."""
    mix = _channel_mix if per_channel else _dense_mix
    scale_view, scale_time = _per_token(parameters.input_scale).chunk(2, dim=-1)
    mixed = mix(view * scale_view, time * scale_time, parameters.weight, parameters.bias, kind)
    gate = _per_token(parameters.gate)
    if kind == "hard":
        y = mixed[0].mul_(gate)
        view.copy_(y)
        time.copy_(y)
        return
    gate_view, gate_time = gate.chunk(2, dim=-1)
    view.add_(mixed[0].mul_(gate_view))
    time.add_(mixed[1].mul_(gate_time))


def _channel_mix(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor, kind: str) -> list[Tensor]:
    channels = view.shape[-1]
    rows, biases = weight.view(-1, 2, channels), bias.view(-1, channels)
    return [
        (view * row[0]).add_(time * row[1]).add_(offset) for row, offset in zip(rows, biases, strict=True)
    ]


def _dense_mix(view: Tensor, time: Tensor, weight: Tensor, bias: Tensor, kind: str) -> list[Tensor]:
    """Two matrix products on the halves of the weight, which saves the copy of a concatenation."""
    channels = view.shape[-1]
    mixed = F.linear(view, weight[:, :channels], bias)
    mixed.view(-1, mixed.shape[-1]).addmm_(time.reshape(-1, channels), weight[:, channels:].T)
    return list(mixed.split(channels, dim=-1))


def folded_channel_(view: Tensor, time: Tensor, parameters: Parameters, kind: str) -> None:
    """The per-channel exchange with scale and gate folded into the weights first: the least eager passes over memory.

    For a batch of one.
    """
    channels = view.shape[-1]
    rows = parameters.weight.view(-1, 2, channels)
    gates = parameters.gate.view(-1, channels)
    scales = parameters.input_scale.view(2, channels)
    biases = parameters.bias.view(-1, channels) * gates
    folded = [row * scales * gate for row, gate in zip(rows, gates, strict=True)]
    if kind == "hard":
        view.mul_(folded[0][0]).addcmul_(time, folded[0][1]).add_(biases[0])
        time.copy_(view)
        return
    delta = (view * folded[1][0]).add_(biases[1])
    view.mul_(folded[0][0] + 1).addcmul_(time, folded[0][1]).add_(biases[0])
    time.mul_(folded[1][1] + 1).add_(delta)


def exchange_norm_(
    view: Tensor, time: Tensor, view_branch: Tensor, time_branch: Tensor, parameters: Parameters, kind: str,
    per_channel: bool, branch_gate: Tensor, norm_scale: Tensor, norm_shift: Tensor, eps: float = 1e-6,
) -> None:
    """Residual and gate in, exchange, then LayerNorm with scale and shift of both results into the branches.

    x_s += branch_gate_s * branch_s; exchange; branch_s = LayerNorm(x_s) * (1 + norm_scale_s) + norm_shift_s.
    """
    streams, branches = (view, time), (view_branch, time_branch)
    for x, branch, gate in zip(streams, branches, branch_gate.chunk(2, dim=-1), strict=True):
        x.addcmul_(branch, _per_token(gate))
    exchange_(view, time, parameters, kind, per_channel)
    scales, shifts = norm_scale.chunk(2, dim=-1), norm_shift.chunk(2, dim=-1)
    for x, branch, scale, shift in zip(streams, branches, scales, shifts, strict=True):
        normed = F.layer_norm(x, x.shape[-1:], eps=eps)
        branch.copy_(normed.mul_(1 + _per_token(scale)).add_(_per_token(shift)))
