"""CLIP: similarity of frames with the caption and with their neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..grid_lines import time_lines, view_lines
from .interface import ScoreExtractor
from .packages import import_package
from .weights import ExtractorSpec, Weights, WeightsError

_DIMENSION = 768
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_BATCH = 64


class Clip(ScoreExtractor):
    """``100 cos`` between embeddings of frames and of the caption; ``cos`` between neighbouring frames."""

    spec = ExtractorSpec(
        name="CLIP ViT-L/14",
        metrics=("CLIP", "CLIP-F", "CLIP-V"),
        source="openai/clip-vit-large-patch14 on the Hugging Face hub (config.json, model.safetensors, vocab.json, "
        "merges.txt, tokenizer_config.json, special_tokens_map.json)",
        path="clip-vit-large-patch14",
        checked=("model*.safetensors",),
        sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
        preprocessing="antialiased bicubic resize of the shorter side to 224, centre crop, CLIP's mean and deviation",
        dimension=_DIMENSION,
        licence="MIT (code of openai/CLIP); the model card asks for research use only",
        needs="transformers",
    )

    def __init__(self, weights: Weights, model, tokenizer, device: torch.device):
        self._model, self._tokenizer, self._device = model.eval().to(device), tokenizer, device
        dimension = model.config.projection_dim
        differs = None if dimension == _DIMENSION else f"embeddings of {dimension}, the published ones of {_DIMENSION}"
        super().__init__(weights, differs)

    @classmethod
    def load(cls, weights: Weights, device: torch.device) -> Clip:
        transformers = import_package("transformers", cls.spec)
        damaged = import_package("safetensors", cls.spec).SafetensorError
        try:
            model = transformers.CLIPModel.from_pretrained(weights.path, local_files_only=True)
            tokenizer = transformers.CLIPTokenizer.from_pretrained(weights.path, local_files_only=True)
        except (OSError, ValueError, RuntimeError, damaged) as error:
            raise WeightsError(f"{cls.spec.name}: {weights.path} cannot be loaded ({error})") from error
        return cls(weights, model, tokenizer, device)

    @torch.no_grad()
    def scores(self, grid: Tensor, caption: str) -> dict[str, float]:
        frames = torch.cat([self._frames(part) for part in grid.flatten(0, 1).split(_BATCH)])
        frames = frames.unflatten(0, grid.shape[:2])
        text = self._text(caption)
        return {
            self.label("CLIP", "frames and caption, 100 cos"): float(100 * (frames @ text).mean()),
            self.label("CLIP-F", "neighbours along time, cos"): _neighbours(time_lines(frames)),
            self.label("CLIP-V", "neighbours along views, cos"): _neighbours(view_lines(frames)),
        }

    def _frames(self, frames: Tensor) -> Tensor:
        side = self._model.config.vision_config.image_size
        height, width = frames.shape[-2:]
        size = [max(side, round(extent * side / min(height, width))) for extent in (height, width)]
        frames = F.interpolate(frames, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        pixels = (frames[..., top : top + side, left : left + side] - mean) / deviation
        pooled = self._model.vision_model(pixel_values=pixels.to(self._device)).pooler_output
        return F.normalize(self._model.visual_projection(pooled), dim=-1).cpu()

    def _text(self, caption: str) -> Tensor:
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(caption, return_tensors="pt", truncation=True, max_length=length).to(self._device)
        pooled = self._model.text_model(**tokens).pooler_output
        return F.normalize(self._model.text_projection(pooled), dim=-1)[0].cpu()


def _neighbours(lines: list[Tensor]) -> float:
    return float(torch.stack([(line[1:] * line[:-1]).sum(-1).mean() for line in lines]).mean())
