"""Weights on disk and their checksums, and the names that results may have."""

import hashlib
from dataclasses import replace

import pytest
import torch

from fourreal_kernels.evaluation.extractors import OFFICIAL, Handcrafted, WeightsError, find_weights, weights_folder
from fourreal_kernels.evaluation.extractors.interface import FeatureExtractor
from fourreal_kernels.evaluation.extractors.weights import ExtractorSpec
from fourreal_kernels.evaluation.grid_lines import LINES

SPEC = ExtractorSpec(
    name="net", metrics=("Official",), source="https://example.org/net.pt", path="net.pt", sha256=None,
    preprocessing="none", dimension=3, licence="MIT",
)  # fmt: skip
OFFICIAL_NAMES = {name for kind in OFFICIAL.values() for name in kind.spec.metrics} | {"FVD", "CLIP", "VideoScore"}


class Net(FeatureExtractor):
    spec = SPEC

    def features(self, clips):
        return torch.zeros(len(clips), 3)


def _digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", OFFICIAL)
def test_absent_weights_say_what_to_download_and_where_it_goes(name, tmp_path):
    spec = OFFICIAL[name].spec
    if spec.path is None:
        assert find_weights(spec, tmp_path).status == "not checked"
        return
    with pytest.raises(WeightsError) as error:
        find_weights(spec, tmp_path)
    message = str(error.value)
    assert message.startswith(f"{spec.name}: no weights at {tmp_path / spec.path}; download them from")
    assert spec.source in message and spec.licence in message


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_extractors_say_all_there_is_to_know(name):
    spec = OFFICIAL[name].spec
    assert spec.metrics and spec.source and spec.preprocessing and spec.licence and spec.dimension > 0
    assert spec.sha256 is None or len(bytes.fromhex(spec.sha256)) == 32


def test_checksums(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"weights")
    digest = _digest(b"weights")
    found = find_weights(SPEC, tmp_path)
    assert (found.path, found.sha256, found.status) == (tmp_path / "net.pt", digest, "not checked")
    assert find_weights(SPEC, tmp_path, digest.upper()).status == "given by the user"
    assert find_weights(replace(SPEC, sha256=digest), tmp_path).status == "published"
    assert find_weights(replace(SPEC, sha256=digest), tmp_path, digest).status == "published"
    other = _digest(b"other")
    with pytest.raises(WeightsError, match=f"has the sha256 {digest}, the one of the published file is {other}"):
        find_weights(replace(SPEC, sha256=other), tmp_path)
    with pytest.raises(WeightsError, match=f"the one you gave {other}; not loaded"):
        find_weights(SPEC, tmp_path, other)
    assert find_weights(replace(SPEC, sha256=other), tmp_path, digest).status == "given by the user"


def test_folders_of_several_files_have_one_checksum(tmp_path):
    spec = replace(SPEC, path="net", checked=("*.safetensors",))
    with pytest.raises(WeightsError, match="no weights at"):
        find_weights(spec, tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "b.safetensors").write_bytes(b"b")
    assert find_weights(spec, tmp_path).sha256 == _digest(b"b")
    (tmp_path / "net" / "a.safetensors").write_bytes(b"a")
    lines = f"a.safetensors {_digest(b'a')}\nb.safetensors {_digest(b'b')}\n"
    assert find_weights(spec, tmp_path).sha256 == _digest(lines.encode())


def test_folder_of_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(tmp_path))
    assert weights_folder() == tmp_path
    monkeypatch.delenv("FOURREAL_WEIGHTS")
    assert weights_folder().parts[-3:] == (".cache", "fourreal_kernels", "weights")


def test_labels_of_published_unchecked_and_other_weights(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"weights")
    digest = _digest(b"weights")
    published = replace(SPEC, sha256=digest)

    def label(spec, sha256=None, differs=None):
        kind = type("Other", (Net,), {"spec": spec})
        return kind(find_weights(spec, tmp_path, sha256), differs).label("Official", "what was measured")

    assert label(published) == "Official, what was measured [net]"
    assert label(SPEC) == "Official, what was measured [net, weights not checked]"
    for text in (label(published, differs="8 outputs"), label(replace(SPEC, sha256=_digest(b"x")), digest)):
        assert "Official" not in text and "other weights in the layout of net" in text
    with pytest.raises(ValueError, match="^metric: got 'FVD', expected one of"):
        Net(find_weights(SPEC, tmp_path)).label("FVD", "text")


def test_the_built_in_extractor_has_no_official_name():
    extractor = Handcrafted()
    assert extractor.spec.metrics == () and not extractor.to_dict()["official"]
    for lines in LINES:
        assert extractor.frechet_metric(lines) == ""
        label = extractor.label("", f"Frechet distance, {lines}")
        assert label.endswith("[handcrafted motion and colour statistics]")
        assert not any(name in label for name in OFFICIAL_NAMES)
    with pytest.raises(ValueError, match="^metric"):
        extractor.label("FVD-F", "text")
