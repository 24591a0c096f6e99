"""Versions and hardware, for ``fourreal doctor`` and for the records of the other commands."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from ..version import __version__

# Import name to distribution name, where they differ.
PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "triton": "triton",
    "PIL": "pillow",
    "av": "av",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
}


def package_version(name: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of this library, torch, Python and the platform."""
    return {
        "fourreal_kernels": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
    }


def cpu_name() -> str:
    """The name of the processor as the system states it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
