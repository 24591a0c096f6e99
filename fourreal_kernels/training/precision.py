"""The precision in which a training runs the model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from ..model.heads import GridPrediction
from ..model.transformer import GridTransformer
from .batches import TrainingBatch

# The modules whose activations are lowered: nearly all arithmetic. Flows in pixels need float32.
_LOWERED = ("blocks.", "sync.")


def predict(model: GridTransformer, noisy: Tensor, batch: TrainingBatch, precision: str) -> GridPrediction:
    """The model's prediction for a batch.

    With ``"bfloat16"`` the blocks and synchronisation layers run on rounded copies of their weights and so on bfloat16
    activations, the operators' kernels included; gradients arrive at the float32 weights.

    Args:
        noisy: ``(B, V, T, 3, H, W)``, the model's input.
        precision: as in :class:`~fourreal_kernels.training.Recipe`.
    """
    inputs = noisy, batch.given, batch.sigma
    options = {"streams": batch.streams, "view_index": batch.view_index, "time_index": batch.time_index}
    if precision == "float32":
        return model(*inputs, **options)
    named = model.named_parameters()
    lowered = {name: p.to(torch.bfloat16) for name, p in named if name.startswith(_LOWERED)}
    return functional_call(model, lowered, inputs, options)
