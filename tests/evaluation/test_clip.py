"""CLIP on a random tiny model that transformers has saved."""

import hashlib
import json

import pytest
import torch
import torch.nn.functional as F

from fourreal_kernels.evaluation.extractors import WeightsError, load_extractor

transformers = pytest.importorskip("transformers", reason="CLIP needs transformers; make test-all installs it")
pytestmark = pytest.mark.optional

PIECES = ["r", "e", "d</w>", "b", "o", "x</w>", "re", "bo", "a</w>", "red</w>", "box</w>"]
WORDS = [*PIECES, "<|startoftext|>", "<|endoftext|>"]
MERGES = "#version: 0.2\nr e\nre d</w>\nb o\nbo x</w>\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``clip-vit-large-patch14`` in a folder of weights, with towers of width 16 and 8 pixels."""
    torch.manual_seed(0)
    tower = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    start, end = len(PIECES), len(PIECES) + 1
    special = dict(bos_token_id=start, eos_token_id=end, pad_token_id=end)
    tokens = dict(vocab_size=len(WORDS), max_position_embeddings=8, **special)
    config = transformers.CLIPConfig(
        text_config=tower | tokens,
        vision_config=tower | dict(image_size=8, patch_size=4), projection_dim=12,
    )  # fmt: skip
    root = tmp_path_factory.mktemp("weights")
    target = root / "clip-vit-large-patch14"
    transformers.CLIPModel(config).save_pretrained(target)
    (target / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(WORDS)}))
    (target / "merges.txt").write_text(MERGES)
    return root


@pytest.fixture(scope="module")
def extractor(folder):
    weights = folder / "clip-vit-large-patch14" / "model.safetensors"
    return load_extractor("clip", folder, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())


def test_published_checksum_is_expected(folder):
    with pytest.raises(WeightsError, match="the one of the published file is a2bf730a0c7d"):
        load_extractor("clip", folder)


def test_scores_are_cosines_of_the_models_own_embeddings(extractor):
    grid = torch.rand(2, 3, 3, 8, 8)
    scores = list(extractor.scores(grid, "a red box").values())
    model = extractor._model
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        tokens = torch.tensor([[WORDS.index(word) for word in ("<|startoftext|>", *PIECES[-3:], "<|endoftext|>")]])
        out = model(input_ids=tokens, pixel_values=(grid.flatten(0, 1) - mean) / deviation)
    frames = F.normalize(out.image_embeds, dim=-1).view(2, 3, 12)
    text = F.normalize(out.text_embeds, dim=-1)[0]
    expected = [
        100 * (frames @ text).mean(),
        (frames[:, 1:] * frames[:, :-1]).sum(-1).mean(),
        (frames[1:] * frames[:-1]).sum(-1).mean(),
    ]
    assert scores == pytest.approx([float(value) for value in expected], abs=1e-4)


def test_a_tiny_model_is_never_printed_as_clip(extractor):
    labels = list(extractor.scores(torch.rand(2, 2, 3, 8, 8), "a red box"))
    assert len(labels) == 3 and all("other weights in the layout of CLIP ViT-L/14" in label for label in labels)
    assert not any(label.startswith("CLIP") for label in labels) and not extractor.to_dict()["official"]


def test_damaged_folder(tmp_path):
    target = tmp_path / "clip-vit-large-patch14"
    target.mkdir()
    (target / "model.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_extractor("clip", tmp_path, sha256=hashlib.sha256(b"x").hexdigest())
