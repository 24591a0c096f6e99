"""I3D from both kinds of files, on random tiny networks of the same layout."""

import hashlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fourreal_kernels.evaluation.extractors import WeightsError, load_extractor
from fourreal_kernels.evaluation.extractors.i3d import TorchScriptI3D, mirrored, preprocess
from fourreal_kernels.evaluation.extractors.i3d_network import CHANNELS, I3D
from fourreal_kernels.evaluation.frechet import CLEAN, LineFeatures

TINY = {name: tuple(max(1, count // 64) for count in counts) for name, counts in CHANNELS.items()}


class ScriptedNet(torch.nn.Module):
    """The call of the published TorchScript file: ``net(x, rescale, resize, return_features)``."""

    def __init__(self, outputs: int):
        super().__init__()
        self.linear = torch.nn.Linear(3, outputs)

    def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = True):
        if rescale or resize or not return_features:
            raise ValueError("unexpected options")
        return self.linear(x.mean([2, 3, 4]))


@pytest.fixture(scope="module")
def tiny_state():
    torch.manual_seed(0)
    return I3D(TINY, 5).state_dict()


def _save(folder, name, value):
    (torch.jit.script(value).save if isinstance(value, torch.nn.Module) else lambda p: torch.save(value, p))(
        str(folder / name)
    )
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_layout_of_the_published_state_dict():
    """Names as the converter of the TensorFlow weights writes them: stages, branches b0 .. b3b, conv3d and bn."""
    state = I3D().state_dict()
    learned = [value.numel() for name, value in state.items() if not name.endswith(("tracked", "mean", "var"))]
    assert sum(learned) == 12_697_264
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_4f.b2b.conv3d.weight"].shape == (128, 32, 3, 3, 3)
    assert state["Mixed_5c.b3b.bn.running_var"].shape == (128,)
    assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1) and state["logits.conv3d.bias"].shape == (400,)
    stages = {name.split(".")[0] for name in state}
    assert stages == {*CHANNELS, "logits"}
    branches = {name.split(".")[1] for name in state if name.startswith("Mixed")}
    assert branches == {"b0", "b1a", "b1b", "b2a", "b2b", "b3b"}


def test_a_state_dict_without_batch_counts_gives_the_same_network(tiny_state):
    plain = {name: value for name, value in tiny_state.items() if "num_batches_tracked" not in name}
    frames = torch.rand(1, 3, 9, 224, 224) * 2 - 1
    with torch.no_grad():
        assert torch.equal(I3D.from_state(plain)(frames), I3D.from_state(tiny_state)(frames))


def test_padding_is_that_of_tensorflow(tiny_state):
    """The first convolution: stride 2, side 7 on even lengths pads 2 before and 3 after."""
    network = I3D.from_state(tiny_state)
    frames = torch.rand(1, 3, 10, 12, 14)
    expected = F.conv3d(F.pad(frames, [2, 3, 2, 3, 2, 3]), tiny_state["Conv3d_1a_7x7.conv3d.weight"], stride=2)
    found = network.Conv3d_1a_7x7(frames)
    expected = F.relu(expected / (1 + 1e-3) ** 0.5)
    torch.testing.assert_close(found, expected)
    assert network.MaxPool3d_4a_3x3(torch.rand(1, 2, 5, 7, 8)).shape == (1, 2, 3, 4, 4)


@pytest.mark.parametrize("change", ["missing", "shape", "unknown"])
def test_other_layouts_are_refused(tiny_state, change):
    state = dict(tiny_state)
    if change == "missing":
        del state["Mixed_3b.b0.conv3d.weight"]
    elif change == "shape":
        state["Mixed_3b.b0.conv3d.weight"] = torch.zeros(7, 1, 1, 1, 1)
    else:
        state["extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match="^state: does not have the layout of I3D"):
        I3D.from_state(state)


def test_short_clips_are_played_backwards_from_their_end():
    assert mirrored(torch.arange(8)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 6, 5]
    assert mirrored(torch.arange(3)).tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]
    assert mirrored(torch.arange(1)).tolist() == [0] * 10
    assert mirrored(torch.arange(12)).tolist() == list(range(12))


def test_preprocessing():
    clip = torch.rand(10, 3, 16, 24)
    frames = preprocess(clip)
    assert frames.shape == (3, 10, 224, 224)
    wide = F.interpolate(clip, size=(224, 336), mode="bilinear", align_corners=False)
    torch.testing.assert_close(frames.transpose(0, 1), wide[..., 56:280] * 2 - 1)


def test_kinetics_file(tiny_state, tmp_path):
    _save(tmp_path, "i3d_pretrained_400.pt", tiny_state)
    extractor = load_extractor("i3d-kinetics400", tmp_path)
    clips = [torch.rand(8, 3, 16, 16) for _ in range(2)]
    features = extractor.features(clips)
    with torch.no_grad():
        expected = I3D.from_state(tiny_state)(torch.stack([preprocess(clip) for clip in clips]))
    torch.testing.assert_close(features, expected)
    assert features.shape == (2, 5) and extractor.differs == "5 outputs, the published network has 400"
    assert extractor.to_dict()["weights"]["checksum"] == "not checked" and not extractor.to_dict()["official"]


def test_torchscript_file_is_loaded_only_with_the_expected_checksum(tmp_path):
    digest = _save(tmp_path, "i3d_torchscript.pt", ScriptedNet(4))
    with pytest.raises(WeightsError, match=f"has the sha256 {digest}, the one of the published file is bec6519f66ea"):
        load_extractor("i3d-torchscript", tmp_path)
    extractor = load_extractor("i3d-torchscript", tmp_path, sha256=digest)
    clip = torch.rand(8, 3, 20, 20)
    torch.testing.assert_close(
        extractor.features([clip])[0], extractor.network.linear(preprocess(clip).mean((1, 2, 3))).detach()
    )


def test_other_weights_are_never_printed_as_fvd(tmp_path):
    """Not even with the number of outputs of the published network."""
    digest = _save(tmp_path, "i3d_torchscript.pt", ScriptedNet(400))
    collected = LineFeatures(load_extractor("i3d-torchscript", tmp_path, sha256=digest))
    for name in (CLEAN, "model"):
        for _ in range(2):
            collected.add(name, torch.rand(3, 3, 3, 16, 16))
    rows = collected.rows()
    assert [row["lines"] for row in rows] == ["time lines", "view lines", "diagonals"]
    assert not any("FVD" in row["label"] or "FV4D" in row["label"] for row in rows)
    assert all("other weights in the layout of I3D torchscript" in row["label"] for row in rows)


def test_the_names_of_the_field_are_those_of_published_weights(tmp_path, monkeypatch):
    digest = _save(tmp_path, "i3d_torchscript.pt", ScriptedNet(400))
    monkeypatch.setattr(TorchScriptI3D, "spec", replace(TorchScriptI3D.spec, sha256=digest))
    extractor = load_extractor("i3d-torchscript", tmp_path)
    names = [extractor.label(extractor.frechet_metric(lines), lines) for lines in ("time lines", "view lines")]
    assert names == ["FVD-F, time lines [I3D torchscript]", "FVD-V, view lines [I3D torchscript]"]


@pytest.mark.parametrize(
    "name, file", [("i3d-torchscript", "i3d_torchscript.pt"), ("i3d-kinetics400", "i3d_pretrained_400.pt")]
)
def test_damaged_files(tmp_path, name, file):
    (tmp_path / file).write_bytes(b"not a network")
    digest = hashlib.sha256(b"not a network").hexdigest()
    with pytest.raises(WeightsError, match=file):
        load_extractor(name, tmp_path, sha256=digest)


def test_unknown_extractor(tmp_path):
    with pytest.raises(ValueError, match="^name: got 'fvd', expected one of"):
        load_extractor("fvd", tmp_path)
