"""A quick look at the model while it trains, on grids that are not trained on (held-out scenes are not used)."""

from __future__ import annotations

import torch

from ..data.dataset import GridDataset
from ..model.conditioning import cross_mask
from ..model.transformer import GridTransformer

VALIDATION_GRIDS = 4


@torch.no_grad()
def validate(model: GridTransformer, dataset: GridDataset, device: str) -> dict[str, float]:
    """PSNR in dB over the generated frames of the first grids: the one-step answer and the mean of the two copies."""
    totals = {"one_step": 0.0, "mean_of_copies": 0.0}
    for index in range(VALIDATION_GRIDS):
        clean = dataset.frames(index).float().to(device)[None] / 127.5 - 1
        given = cross_mask(*clean.shape[1:3], device=clean.device)[None]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(index)).to(device)
        frames = torch.where(given[..., None, None, None], clean, noise)
        predicted = model(frames, given, torch.ones(1, device=clean.device)).frames.clamp(-1, 1)
        copies = (clean[:, :1] + clean[:, :, :1]) / 2
        for name, frames in (("one_step", predicted), ("mean_of_copies", copies)):
            error = (frames - clean)[~given].square().mean() / 4
            totals[name] += float(-10 * torch.log10(error)) / VALIDATION_GRIDS
    return {name: round(value, 3) for name, value in totals.items()}
