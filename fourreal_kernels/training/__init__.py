"""Training of the reference model."""

from .config import Phase, Recipe, load_recipe
from .trainer import train

__all__ = ["Phase", "Recipe", "load_recipe", "train"]
