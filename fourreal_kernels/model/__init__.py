"""The reference model: a pixel-space diffusion transformer that generates grids of frames end to end."""

from .checkpoint import ModelError, load_model, save_model
from .conditioning import cross_mask
from .config import GridConfig
from .pipeline import DEFAULT_STEPS, GridPipeline
from .transformer import GridTransformer
from .video import GridVideo

__all__ = [
    "DEFAULT_STEPS",
    "GridConfig",
    "GridPipeline",
    "GridTransformer",
    "GridVideo",
    "ModelError",
    "cross_mask",
    "load_model",
    "save_model",
]
