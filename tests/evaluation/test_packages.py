"""DUSt3R, MEt3R and VideoScore through packages with the calls of the real ones, made here with random tiny models."""

import sys

import pytest
import torch

from fourreal_kernels.evaluation.extractors import OFFICIAL, WeightsError, load_extractor
from fourreal_kernels.evaluation.extractors.videoscore import read_prompt

DUST3R = """
import torch

class AsymmetricCroCo3DStereo(torch.nn.Module):
    enc_embed_dim = 8

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Conv2d(6, 2, 1)

    @classmethod
    def from_pretrained(cls, path):
        model = cls()
        model.load_state_dict(torch.load(path, weights_only=True)["model"])
        return model

    def forward(self, view1, view2):
        assert view1["true_shape"].tolist() == [list(view1["img"].shape[-2:])]
        confidence = 1 + self.head(torch.cat([view1["img"], view2["img"]], 1)).exp()
        return {"conf": confidence[:, 0]}, {"conf": confidence[:, 1]}
"""

MET3R = """
import torch

class MEt3R(torch.nn.Module):
    def __init__(self, *, img_size, use_norm, backbone, feature_backbone, feature_backbone_weights, upsampler, distance,
                 freeze):
        super().__init__()
        self.size, self.backbone = img_size, backbone

    def forward(self, images):
        assert images.shape[1:] == (2, 3, self.size, self.size) and images.min() >= -1 and images.max() <= 1
        return (images[:, 0] - images[:, 1]).abs().mean((1, 2, 3)), None
"""

IDEFICS = """
import types
import torch

class Idefics2ForSequenceClassification(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.score = torch.nn.Linear(2, 5)
        self.config = types.SimpleNamespace(text_config=types.SimpleNamespace(hidden_size=2))

    @classmethod
    def from_pretrained(cls, path, torch_dtype, local_files_only):
        from safetensors.torch import load_file
        model = cls()
        model.load_state_dict(load_file(path / "model.safetensors"))
        return model.to(torch_dtype)

    def forward(self, length, brightness):
        return types.SimpleNamespace(logits=self.score(torch.stack([length, brightness], -1)))
"""


class Processor:
    """Counts the image tokens of the text and takes the mean of the images."""

    texts: list = []

    @classmethod
    def from_pretrained(cls, path, local_files_only):
        return cls()

    def __call__(self, text, images, return_tensors):
        self.texts.append(text)
        mean = sum(sum(image.resize((1, 1)).getpixel((0, 0))) / 765 for image in images) / len(images)
        return Inputs(length=torch.tensor([float(text.count("<image>"))]), brightness=torch.tensor([mean]))


class Inputs(dict):
    def to(self, device):
        return self


@pytest.fixture
def package(tmp_path, monkeypatch):
    def make(name, source):
        folder = tmp_path / "site"
        file = folder.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        monkeypatch.syspath_prepend(folder)
        for part in [name.rsplit(".", count)[0] for count in range(name.count(".") + 1)]:
            monkeypatch.delitem(sys.modules, part, raising=False)

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] in ("dust3r", "met3r", "mantis")]:
        del sys.modules[name]


def test_dust3r_counts_the_pixels_above_each_threshold(package, tmp_path):
    package("dust3r.model", DUST3R)
    torch.manual_seed(0)
    head = torch.nn.Conv2d(6, 2, 1)
    head.weight.data.mul_(2)
    state = {f"head.{name}": value for name, value in head.state_dict().items()}
    torch.save({"model": state}, tmp_path / "DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth")
    extractor = load_extractor("dust3r", tmp_path)
    grid = torch.rand(3, 2, 3, 8, 16)
    found = list(extractor.scores(grid, "").values())
    values = []
    for time in range(2):
        frames = torch.nn.functional.interpolate(grid[:, time], size=(256, 512), mode="bicubic", antialias=True)
        frames = frames.clamp(0, 1) * 2 - 1
        for first, second in ((0, 1), (0, 2), (1, 2)):
            with torch.no_grad():
                values.append(1 + head(torch.cat([frames[first], frames[second]])[None]).exp())
    values = torch.cat(values)
    expected = [100 * float((values > threshold).double().mean()) for threshold in (2.0, 2.5, 3.0)]
    assert 0 < expected[2] < expected[0] < 100 and found == pytest.approx(expected, abs=1e-3)


def test_dust3r_of_another_size_is_not_printed_as_the_metric(package, tmp_path):
    package("dust3r.model", DUST3R)
    state = {f"head.{name}": value for name, value in torch.nn.Conv2d(6, 2, 1).state_dict().items()}
    torch.save({"model": state}, tmp_path / "DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth")
    extractor = load_extractor("dust3r", tmp_path)
    assert extractor.differs == "encoder of width 8, the published model has 1024"
    labels = list(extractor.scores(torch.rand(2, 1, 3, 8, 8), ""))
    assert len(labels) == 3 and not any("Confidence" in label for label in labels)
    assert not extractor.to_dict()["official"]


def test_met3r_is_the_mean_over_neighbouring_views(package, tmp_path):
    package("met3r", MET3R)
    extractor = load_extractor("met3r", tmp_path)
    level = torch.tensor([[0.1, 0.2], [0.4, 0.2], [0.5, 1.0]])
    scores = extractor.scores(level[..., None, None, None].expand(3, 2, 3, 8, 8), "")
    ((label, value),) = scores.items()
    assert label == "MEt3R, neighbouring views of one timestep [MEt3R (MASt3R, DINO, FeatUp), weights not checked]"
    assert value == pytest.approx(2 * (0.3 + 0.0 + 0.1 + 0.8) / 4, abs=1e-5)


@pytest.mark.optional
def test_videoscore_of_both_kinds_of_lines(package, tmp_path, monkeypatch):
    name = "transformers.models.auto.processing_auto"
    processing = pytest.importorskip(name, reason="VideoScore needs it; make test-all installs it")
    safetensors = pytest.importorskip("safetensors.torch", reason="weights are stored with safetensors")
    package("mantis.models.idefics2", IDEFICS)
    # The class, not its name in transformers: that module replaces itself in sys.modules while it is imported.
    monkeypatch.setattr(processing.AutoProcessor, "from_pretrained", Processor.from_pretrained)
    monkeypatch.setattr(Processor, "texts", [])
    folder = tmp_path / "VideoScore"
    folder.mkdir()
    weight = torch.zeros(5, 2)
    weight[0, 0], weight[1, 1] = 1, 1
    safetensors.save_file({"score.weight": weight, "score.bias": torch.arange(5.0)}, folder / "model.safetensors")
    (folder / "README.md").write_text('x = 1\nREGRESSION_QUERY_PROMPT = """\nScore "{text_prompt}":\n"""\n')
    extractor = load_extractor("videoscore", tmp_path)
    scores = extractor.scores(torch.full((2, 3, 3, 8, 8), 0.6), "a box")
    assert Processor.texts[0] == 'Score "a box":\n' + "<image> " * 3
    assert [text.count("<image>") for text in Processor.texts] == [3, 3, 2, 2, 2]
    assert list(scores.values()) == pytest.approx([3, 1.6, 2, 3, 4, 2, 1.6, 2, 3, 4], abs=1e-4)
    assert extractor.differs == "hidden size 2, the published model has 4096"
    assert all("other weights in the layout of VideoScore" in label for label in scores)


def test_videoscore_prompts(tmp_path):
    with pytest.raises(WeightsError, match="has no prompt; put the model card's README.md there"):
        read_prompt(tmp_path)
    (tmp_path / "README.md").write_text("no prompt here")
    with pytest.raises(WeightsError, match="has no prompt"):
        read_prompt(tmp_path)
    (tmp_path / "regression_prompt.txt").write_text("rate it")
    with pytest.raises(WeightsError, match=r"has no \{text_prompt\}"):
        read_prompt(tmp_path)
    (tmp_path / "regression_prompt.txt").write_text("rate {text_prompt}")
    assert read_prompt(tmp_path) == "rate {text_prompt}"


@pytest.mark.parametrize("name, module", [("dust3r", "dust3r"), ("met3r", "met3r")])
def test_absent_packages_say_what_to_install(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    if OFFICIAL[name].spec.path:
        (tmp_path / OFFICIAL[name].spec.path).write_bytes(b"")
    with pytest.raises(WeightsError, match=f"needs the package {module}.*cannot be imported"):
        load_extractor(name, tmp_path)
