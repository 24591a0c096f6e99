"""Exponential moving average of weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """Averaged copy of a model. The decay grows from 0.2 towards ``decay`` so that early weights are forgotten.

    Args:
        model: the trained model.
        decay: of the average.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = dict(self.model.named_parameters())
        for name, parameter in model.named_parameters():
            averages[name].lerp_(parameter, 1 - decay)
