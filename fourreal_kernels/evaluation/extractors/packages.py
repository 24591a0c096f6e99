"""Packages that official metrics need and that this repository neither installs nor contains."""

from __future__ import annotations

import importlib
from types import ModuleType

from .weights import ExtractorSpec, WeightsError


def import_package(name: str, spec: ExtractorSpec) -> ModuleType:
    """Import a package or raise WeightsError that says what the extractor needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WeightsError(
            f"{spec.name} needs {spec.needs}; {name!r} cannot be imported ({error}). Install it, or put its folder on "
            "PYTHONPATH"
        ) from error
