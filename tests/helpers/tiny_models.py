"""Models small enough to run in milliseconds, with weights away from their starting values, and inputs for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fourreal_kernels.model import GridConfig, GridTransformer

VIEWS, TIMES = 3, 4


def tiny_config(**changes) -> GridConfig:
    """V and T differ, frames are not square, heads have the least width that a GridRope takes."""
    settings = dict(
        views=VIEWS, times=TIMES, height=8, width=12, patch=4, dim=12, depth=2, heads=2, mlp_ratio=2.0,
        sync_cond_dim=5, head_features=3,
    )
    return GridConfig(**settings | changes)


def tiny_model(seed: int = 0, **changes) -> GridTransformer:
    """A model as it is initialised."""
    torch.manual_seed(seed)
    return GridTransformer(tiny_config(**changes))


@torch.no_grad()
def perturb(parameters, size: float = 0.3, seed: int = 1) -> None:
    """Add noise to parameters, so that nothing is at its starting value."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_((size * noise).to(parameter.dtype))


def base_parameters(model: GridTransformer) -> list[nn.Parameter]:
    """All parameters but those of the synchronisation layers."""
    sync = {id(parameter) for parameter in model.sync_parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in sync]


def random_model(seed: int = 0, size: float = 0.3, **changes) -> GridTransformer:
    """A model all of whose weights are away from their starting values."""
    model = tiny_model(seed, **changes)
    perturb(model.parameters(), size)
    return model


def random_masks(count: int, views: int = VIEWS, times: int = TIMES, density: float = 0.3, seed: int = 0) -> Tensor:
    """``(count, V, T)`` bool; one in three of the samples has no given frame in its last view and last timestep."""
    given = torch.rand(count, views, times, generator=torch.Generator().manual_seed(seed)) < density
    given[:, 0, 0] = True
    given[::3, -1, :] = False
    given[::3, :, -1] = False
    return given


def model_inputs(model: GridTransformer, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Frames in [-1, 1], masks and sigma, in the dtype of the model."""
    config, dtype = model.config, model.context_embedding.dtype
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, config.views, config.times, 3, config.height, config.width)
    frames = torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1
    sigma = torch.linspace(0.3, 1.0, batch, dtype=dtype)
    return frames, random_masks(batch, config.views, config.times, seed=seed), sigma
