"""Options of ``fourreal evaluate`` for official metrics on the user's weights."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..evaluation.extractors import (
    OFFICIAL,
    Extractor,
    ExtractorSpec,
    WeightsError,
    find_weights,
    load_extractor,
    weights_folder,
)
from .arguments import check_device, path
from .errors import UserError, user_errors


def add_extractors(parser: argparse.ArgumentParser) -> None:
    """``--extractor --weights --weights-sha256 --list-extractors``."""
    parser.add_argument(
        "--extractor", action="append", choices=tuple(OFFICIAL), default=[], metavar="NAME",
        help=f"official metric to compute from your weights, may be repeated: {', '.join(OFFICIAL)}",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=path, metavar="DIR",
        help="folder of weights (default: $FOURREAL_WEIGHTS or ~/.cache/fourreal_kernels/weights)",
    )  # fmt: skip
    parser.add_argument(
        "--weights-sha256", action="append", type=_named_checksum, default=[], metavar="NAME=HEX",
        help="checksum to expect of an extractor's weights instead of the published one",
    )  # fmt: skip
    parser.add_argument(
        "--list-extractors", action="store_true", help="print what each official metric needs and what was found"
    )


def _named_checksum(text: str) -> tuple[str, str]:
    name, _, digest = text.partition("=")
    if name not in OFFICIAL or not re.fullmatch("[0-9a-fA-F]{64}", digest):
        expected = f"NAME=HEX with a name of {', '.join(OFFICIAL)} and 64 hexadecimal digits"
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
    return name, digest


def load_extractors(arguments: argparse.Namespace) -> list[Extractor]:
    """The extractors of ``--extractor`` on ``--device``.

    Raises:
        UserError: weights or packages are absent or not the expected ones, or a checksum has no extractor.
    """
    checksums = dict(arguments.weights_sha256)
    for name in checksums:
        if name not in arguments.extractor:
            raise UserError(f"argument --weights-sha256: {name} is not asked for by --extractor")
    device = check_device(arguments.device) if arguments.extractor else None
    with user_errors(WeightsError, prefix="argument --extractor"):
        return [
            load_extractor(name, arguments.weights, sha256=checksums.get(name), device=device)
            for name in dict.fromkeys(arguments.extractor)
        ]


def extractor_list(arguments: argparse.Namespace) -> str:
    """What every official extractor is, needs, and whether its weights are there. Nothing is loaded."""
    folder = arguments.weights or weights_folder()
    lines = [f"folder of weights: {folder}"]
    for name, kind in OFFICIAL.items():
        spec = kind.spec
        state = _state(spec, folder)
        lines += [
            f"{name}: {', '.join(spec.metrics)}",
            f"  source: {spec.source}",
            f"  sha256: {spec.sha256 or 'no published checksum is known'}",
            f"  needs: {spec.needs}; licence: {spec.licence}",
            f"  preprocessing: {spec.preprocessing}",
            f"  weights: {state}",
        ]
    return "\n".join(lines)


def _state(spec: ExtractorSpec, folder: Path) -> str:
    if spec.path is None:
        return "brought by the package"
    if not (folder / spec.path).exists():
        return f"absent; go to {folder / spec.path}"
    try:
        weights = find_weights(spec, folder)
    except WeightsError as error:
        return str(error)
    return f"{weights.path}, sha256 {weights.sha256} ({weights.status})"
