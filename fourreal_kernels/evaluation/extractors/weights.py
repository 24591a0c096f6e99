"""Weights on the user's disk: where they are expected, and what their checksum says."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

WEIGHTS_VARIABLE = "FOURREAL_WEIGHTS"
PUBLISHED, GIVEN, UNCHECKED = "published", "given by the user", "not checked"
_CHUNK = 1 << 20


class WeightsError(ValueError):
    """Weights or a package that are absent or not the expected ones; says what to do about it."""


@dataclass(frozen=True)
class ExtractorSpec:
    """What an extractor is and what it needs. Everything that is known of it before anything is loaded.

    Attributes:
        name: as it is asked for and printed.
        metrics: the official names of its results; empty for an extractor of our own.
        source: where the weights come from: url or id.
        path: file or folder of the weights below the folder of weights; None: it has none.
        checked: what is hashed: glob patterns below ``path``, empty when ``path`` is a file.
        sha256: of the published weights, None where no published checksum is known to us.
        preprocessing, licence: one line each.
        dimension: length of a feature vector or number of scores.
        needs: what has to be installed besides PyTorch.
    """

    name: str
    metrics: tuple[str, ...]
    source: str
    path: str | None
    sha256: str | None
    preprocessing: str
    dimension: int
    licence: str
    checked: tuple[str, ...] = ()
    needs: str = "nothing"


@dataclass(frozen=True)
class Weights:
    """Weights that were found: ``path``, their ``sha256``, and against what it was checked (``status``)."""

    path: Path | None
    sha256: str | None
    status: str

    def to_dict(self) -> dict[str, str | None]:
        return {"path": str(self.path) if self.path else None, "sha256": self.sha256, "checksum": self.status}


def weights_folder() -> Path:
    """``$FOURREAL_WEIGHTS``, or ``~/.cache/fourreal_kernels/weights``."""
    found = os.environ.get(WEIGHTS_VARIABLE)
    return Path(found) if found else Path.home() / ".cache" / "fourreal_kernels" / "weights"


def find_weights(spec: ExtractorSpec, folder: Path, sha256: str | None = None) -> Weights:
    """The weights of an extractor below ``folder``, hashed before anything in them is opened.

    Args:
        sha256: what the user expects; takes the place of the published checksum.

    Raises:
        WeightsError: they are absent (what to download and where it goes), or their checksum is another.
    """
    if spec.path is None:
        return Weights(None, None, UNCHECKED)
    path = folder / spec.path
    files = [path] if not spec.checked else sorted({file for glob in spec.checked for file in path.glob(glob)})
    if not files or not all(file.is_file() for file in files):
        raise WeightsError(
            f"{spec.name}: no weights at {path}; download them from {spec.source} (licence: {spec.licence}) and put "
            f"them there, or name another folder of weights"
        )
    found = _digest(path, files)
    expected = sha256.lower() if sha256 else spec.sha256
    if expected is not None and found != expected:
        whose = "you gave" if sha256 else "of the published file is"
        raise WeightsError(f"{spec.name}: {path} has the sha256 {found}, the one {whose} {expected}; not loaded")
    if spec.sha256 is not None and found == spec.sha256:
        return Weights(path, found, PUBLISHED)
    return Weights(path, found, GIVEN if sha256 else UNCHECKED)


def _digest(path: Path, files: list[Path]) -> str:
    """The sha256 of a file; of several, that of the lines "name sha256" in the order of their names."""
    digests = [_file_digest(file) for file in files]
    if len(files) == 1:
        return digests[0]
    lines = (f"{file.relative_to(path)} {digest}\n" for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
