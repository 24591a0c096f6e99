"""Losses of the reference model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.heads import GridPrediction
from .batches import TrainingBatch

_SMALLEST_SIGMA = 0.2


def noisy_input(batch: TrainingBatch, noise: Tensor) -> Tensor:
    """Rectified flow: (1 - sigma) * clean + sigma * noise where not given, clean where given."""
    sigma = batch.sigma[:, None, None, None, None, None]
    noisy = (1 - sigma) * batch.frames + sigma * noise
    return torch.where(batch.given[..., None, None, None], batch.frames, noisy)


def velocity_loss(prediction: GridPrediction, batch: TrainingBatch) -> Tensor:
    """Squared error of the velocity over the frames that are not given.

    The velocity (noisy - clean) / sigma errs by the error of the clean frames over sigma; small sigma are weighted as
    0.2.
    """
    error = (prediction.frames - batch.frames).square().mean(dim=(3, 4, 5))
    weight = batch.sigma.clamp_min(_SMALLEST_SIGMA).square().reciprocal()[:, None, None] * ~batch.given
    return (error * weight).sum() / (~batch.given).sum().clamp_min(1)


def flow_loss(prediction: GridPrediction, batch: TrainingBatch) -> Tensor:
    """Huber loss, in pixels, of the predicted flows where the matching point is visible in the source frame."""
    if batch.flow is None or prediction.flow_same_view is None:
        return prediction.frames.new_zeros(())
    predicted = torch.stack([prediction.flow_same_view, prediction.flow_same_time], dim=1)
    weight = batch.visible & ~batch.given[:, None, :, :, None, None]
    error = F.smooth_l1_loss(predicted, batch.flow, reduction="none").sum(dim=4)
    return (error * weight).sum() / weight.sum().clamp_min(1)


def sharpness_loss(prediction: GridPrediction, batch: TrainingBatch) -> Tensor:
    """Mean absolute difference of the local gradient energy of predicted and true frames that are not given.

    Squared error alone makes a prediction the average of what is possible, which blurs.
    """
    weight = ~batch.given
    error = (_local_energy(prediction.frames) - _local_energy(batch.frames)).abs().mean(dim=(1, 2, 3))
    return (error.view(weight.shape) * weight).sum() / weight.sum().clamp_min(1)


def _local_energy(frames: Tensor) -> Tensor:
    """Squared differences to the right and lower neighbours, summed over channels and averaged over 5 x 5 pixels."""
    flat = frames.flatten(0, 2)
    right = flat[..., :-1, 1:] - flat[..., :-1, :-1]
    lower = flat[..., 1:, :-1] - flat[..., :-1, :-1]
    return F.avg_pool2d((right.square() + lower.square()).sum(1, keepdim=True), 5, 1)
