"""Muon for the hidden matrices, AdamW for everything else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_UPDATE_RMS = 0.3


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each matrix is orthogonalised (Jordan et al., 2024), iterated in float32.

    ``torch.optim.Muon`` iterates in bfloat16, which CPUs without bfloat16 units run several times slower. Updates are
    scaled to a root mean square of 0.3, near that of AdamW, so that both share a learning rate.

    Args:
        parameters: matrices.
        lr, weight_decay, momentum: as usual; weight decay is decoupled.
    """

    def __init__(self, parameters, lr: float, weight_decay: float = 0.0, momentum: float = 0.95):
        super().__init__(parameters, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        update = orthogonalise(torch.lerp(parameter.grad, momentum, group["momentum"]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * _UPDATE_RMS * max(parameter.shape) ** 0.5)


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values go to about 0.7-1.2 by a Newton-Schulz iteration."""
    a, b, c = _COEFFICIENTS
    x = matrix / matrix.norm().clamp_min(1e-7)
    transposed = x.shape[0] > x.shape[1]
    if transposed:
        x = x.T
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if transposed else x


def build_optimizers(
    named_parameters: list[tuple[str, nn.Parameter]], lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon over the matrices of blocks and synchronisation layers, AdamW over the rest."""
    matrices, rest = [], []
    for name, parameter in named_parameters:
        hidden = name.startswith(("blocks.", "sync.")) and parameter.ndim == 2 and min(parameter.shape) > 8
        (matrices if hidden else rest).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, lr=lr, weight_decay=weight_decay))
    if rest:
        optimizers.append(torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay))
    return optimizers
