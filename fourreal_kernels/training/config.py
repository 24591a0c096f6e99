"""Training recipes: a model, an optimiser and the phases of the training, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from ..model.config import GridConfig

SAMPLES = ("grids", "lines", "pseudo4d")
TRAINABLE = ("all", "sync")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Phase:
    """One phase of the training.

    Attributes:
        name: shown in the log.
        share: this phase's part of the whole training time (or steps); the shares of all phases are normalised.
        samples: ``"grids"`` (rendered 4D scenes), ``"lines"`` (single time lines and freeze-time lines, on which the
            base runs alone) or ``"pseudo4d"`` (grids made of single clips by 2D homographies).
        trainable: ``"all"`` weights or only those of the ``"sync"`` layers.
        views, times: size of the sub-grids taken from each grid; the first view and timestep are always kept.
        batch: samples per step.
        random_mask: part of the samples whose given frames are a random subset instead of the first view and time.
        pure_noise: part of the samples at sigma = 1; the others are logit-normal.
        sigma_mean, sigma_std: of the logit-normal.
        flow_weight: weight of the flow loss, per pixel of displacement; 0 for none.
        sharpness_weight: weight of the sharpness loss; 0 for none.
    """

    name: str
    share: float = 1.0
    samples: str = "grids"
    trainable: str = "all"
    views: int = 8
    times: int = 8
    batch: int = 1
    random_mask: float = 0.0
    pure_noise: float = 0.3
    sigma_mean: float = 0.5
    sigma_std: float = 1.2
    flow_weight: float = 0.0
    sharpness_weight: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (("samples", SAMPLES), ("trainable", TRAINABLE)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a training run besides the data.

    Attributes:
        model: configuration of the model.
        phases: run one after another.
        learning_rate: peak; warms up over the first ``warmup`` of the training and falls linearly to zero over the
            last ``cooldown``.
        weight_decay: decoupled, on matrices.
        gradient_clip: largest gradient norm.
        ema: decay of the averaged weights, which are what is saved.
        seed: of initialisation and sampling.
        precision: of the activations in the blocks and synchronisation layers, ``"float32"`` or ``"bfloat16"``;
            weights, their averages, embeddings, matching and head are float32 in both.
        compile: run the blocks through ``torch.compile``, which takes a minute for each shape of grid.
    """

    model: GridConfig
    phases: tuple[Phase, ...]
    learning_rate: float = 1e-3
    warmup: float = 0.02
    cooldown: float = 0.3
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema: float = 0.998
    seed: int = 0
    precision: str = "float32"
    compile: bool = False
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: got {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile: got {self.compile!r}, expected true or false")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: unknown names or values out of range.
        """
        values = dict(values)
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown or "model" not in values or "phases" not in values:
            raise ValueError(f"recipe: expected 'model' and 'phases', unknown settings {sorted(unknown)}")
        values["model"] = GridConfig.from_dict(values["model"])
        values["phases"] = tuple(_phase(phase) for phase in values["phases"])
        return cls(**values)


def _phase(values: Mapping[str, Any]) -> Phase:
    unknown = set(values) - {f.name for f in fields(Phase)}
    if unknown or "name" not in values:
        raise ValueError(f"recipe: a phase needs a 'name'; unknown settings {sorted(unknown)}")
    return Phase(**values)


def bundled_recipes() -> list[str]:
    """Names of the recipes that come with the library."""
    folder = resources.files(__package__) / "recipes"
    return sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Load a recipe by its bundled name or the path of a JSON file.

    Raises:
        ValueError: no such recipe, or malformed.
    """
    if str(name_or_path) in bundled_recipes():
        text = (resources.files(__package__) / "recipes" / f"{name_or_path}.json").read_text()
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text()
    else:
        raise ValueError(
            f"recipe: got {str(name_or_path)!r}, expected a JSON file or one of {', '.join(bundled_recipes())}"
        )
    try:
        return Recipe.from_dict(json.loads(text))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"recipe: {name_or_path} is malformed: {error}") from error
