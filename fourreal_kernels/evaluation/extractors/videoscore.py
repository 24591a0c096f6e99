"""VideoScore: an 8B regression model's five scores of the lines of a grid, by the user's local folder of weights."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from ...data.frames import to_uint8
from ...data.optional import import_optional
from ..grid_lines import time_lines, view_lines
from .interface import ScoreExtractor
from .packages import import_package
from .weights import ExtractorSpec, Weights, WeightsError

ASPECTS = (
    "visual quality", "temporal consistency", "dynamic degree", "text-to-video alignment", "factual consistency",
)  # fmt: skip
PROMPT_FILE = "regression_prompt.txt"
_HIDDEN = 4096
_PLACE = "{text_prompt}"


class VideoScore(ScoreExtractor):
    """Scores from 1 to 4 of time lines and view lines apart, mean over the lines of a grid."""

    spec = ExtractorSpec(
        name="VideoScore",
        metrics=tuple(f"VideoScore {aspect}" for aspect in ASPECTS),
        source="TIGER-Lab/VideoScore on the Hugging Face hub, the whole folder with its README.md",
        path="VideoScore",
        checked=("*.safetensors",),
        sha256=None,
        preprocessing="all frames of a line as images, through the folder's own processor; the prompt is read from the "
        f"folder: {PROMPT_FILE}, or REGRESSION_QUERY_PROMPT in README.md",
        dimension=len(ASPECTS),
        licence="see its model card",
        needs="transformers and the package mantis (pip install mantis-vl), 16 GB of memory in bfloat16",
    )

    def __init__(self, weights: Weights, model, processor, prompt: str, device: torch.device):
        self._model, self._processor, self._prompt, self._device = model.eval().to(device), processor, prompt, device
        hidden = getattr(getattr(model.config, "text_config", model.config), "hidden_size", None)
        differs = None if hidden == _HIDDEN else f"hidden size {hidden}, the published model has {_HIDDEN}"
        super().__init__(weights, differs)

    @classmethod
    def load(cls, weights: Weights, device: torch.device) -> VideoScore:
        prompt = read_prompt(weights.path)
        transformers = import_package("transformers", cls.spec)
        damaged = import_package("safetensors", cls.spec).SafetensorError
        mantis = import_package("mantis.models.idefics2", cls.spec)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        try:
            processor = transformers.AutoProcessor.from_pretrained(weights.path, local_files_only=True)
            model = mantis.Idefics2ForSequenceClassification.from_pretrained(
                weights.path, torch_dtype=dtype, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError, damaged) as error:
            raise WeightsError(f"{cls.spec.name}: {weights.path} cannot be loaded ({error})") from error
        return cls(weights, model, processor, prompt, device)

    def scores(self, grid: Tensor, caption: str) -> dict[str, float]:
        found = {}
        for axis, lines in (("fixed-view lines", time_lines(grid)), ("freeze-time lines", view_lines(grid))):
            mean = torch.stack([self._score(line, caption) for line in lines]).mean(0)
            for metric, aspect, value in zip(self.spec.metrics, ASPECTS, mean.tolist(), strict=True):
                found[self.label(metric, f"{aspect} from 1 to 4, {axis}")] = value
        return found

    @torch.no_grad()
    def _score(self, clip: Tensor, caption: str) -> Tensor:
        image = import_optional("PIL.Image", "VideoScore")
        images = [image.fromarray(frame) for frame in to_uint8(clip, "F")]
        text = self._prompt.replace(_PLACE, caption) + "<image> " * len(images)
        inputs = self._processor(text=text, images=images, return_tensors="pt").to(self._device)
        logits = self._model(**inputs).logits
        if logits.shape[-1] != len(ASPECTS):
            raise WeightsError(f"{self.spec.name}: got {logits.shape[-1]} scores, expected {len(ASPECTS)}")
        return logits[0].float().cpu()


def read_prompt(folder: Path) -> str:
    """The regression prompt of a VideoScore folder.

    Raises:
        WeightsError: it has none, or one without ``{text_prompt}``.
    """
    for name, pattern in ((PROMPT_FILE, r"(.*)"), ("README.md", r'REGRESSION_QUERY_PROMPT\s*=\s*"""(.*?)"""')):
        file = folder / name
        found = re.search(pattern, file.read_text(encoding="utf-8"), re.DOTALL) if file.is_file() else None
        if found:
            if _PLACE not in found[1]:
                raise WeightsError(f"{VideoScore.spec.name}: the prompt in {file} has no {_PLACE}")
            return found[1].lstrip("\n")
    raise WeightsError(
        f"{VideoScore.spec.name}: {folder} has no prompt; put the model card's README.md there, or its prompt into "
        f"{PROMPT_FILE}"
    )
