"""Show versions, hardware and which backends can run here."""

from __future__ import annotations

import json
import os
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

import torch

from .. import dispatch, native
from ..data.optional import import_optional
from ..model.checkpoint import bundled_path
from .environment import PACKAGES, cpu_name, package_version, usable_cores, versions

_OPERATORS = (
    "axis_attention", "two_stream_attention", "sync_exchange", "sync_exchange_", "qk_norm_rope", "qk_norm_rope_"
)
_TOOLS = ("c++", "cmake", "ninja", "nvcc", "ffmpeg", "chromium")
_GIB = 2**30


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``fourreal doctor``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: Namespace) -> None:
    """Print the report; whatever cannot be found out is stated there."""
    report = {name: _attempt(probe) for name, probe in _SECTIONS.items()}
    print(json.dumps(report, indent=2) if arguments.json else _text(report))


def _attempt(probe: Callable[..., Any], *args: Any) -> Any:
    """The probe's answer, or the error: a report on a broken installation must not break itself."""
    try:
        return probe(*args)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _versions() -> dict[str, str]:
    known = versions()
    return {name: known[name] for name in ("fourreal_kernels", "python", "platform")}


def _package(module: str) -> str:
    version = package_version(PACKAGES[module])
    if version is None:
        return "not installed"
    # An installed package may still fail to load, for want of a system library.
    import_optional(module, module)
    return version


def _packages() -> dict[str, str]:
    return {PACKAGES[module]: _attempt(_package, module) for module in PACKAGES}


def _machine() -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": _attempt(_memory),
        "cuda_devices": _attempt(_cuda_devices),
    }


def _memory() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1)


def _cuda_devices() -> list[dict[str, Any]] | str:
    if not torch.cuda.is_available():
        return "none: " + ("torch finds no GPU" if torch.version.cuda else "this torch is built without CUDA")
    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        memory = round(properties.total_memory / _GIB, 1)
        devices.append({"name": properties.name, "capability": capability, "memory_gib": memory})
    return devices


def _native_libraries() -> dict[str, Any]:
    return {"cpu": _attempt(_native_cpu), "cuda": _attempt(_native_cuda)}


def _native_cpu() -> dict[str, Any] | str:
    library = native.cpu_library()
    if library is None:
        return native.why_missing("cpu")
    return {**library.build_info(), "instruction_set": library.instruction_set(), "threads": library.max_threads()}


def _native_cuda() -> dict[str, Any] | str:
    library = native.cuda_library()
    if library is None:
        return native.why_missing("cuda")
    devices = library.device_count()
    return {**library.build_info(), "devices": devices if devices else f"none: {library.why_no_device()}"}


def _backends() -> dict[str, dict[str, str]]:
    return {op: {name: _attempt(_backend, op, name) for name in dispatch.BACKENDS} for op in _OPERATORS}


def _backend(op: str, backend: str) -> str:
    try:
        module = dispatch.load(op, backend)
    except ModuleNotFoundError as error:
        if not (error.name or "").endswith(f".{backend}"):
            raise
        return "no such backend"
    return module.unavailable() or "available"


def _bundled_model() -> str:
    path = bundled_path() / "model.safetensors"
    if not path.is_file():
        return "absent: `fourreal generate` needs --model"
    return f"present, {path.stat().st_size / 2**20:.1f} MiB"


def _tools() -> dict[str, str]:
    return {name: shutil.which(name) or "not found" for name in _TOOLS}


_SECTIONS: dict[str, Callable[[], Any]] = {
    "versions": _versions,
    "packages": _packages,
    "machine": _machine,
    "native_libraries": _native_libraries,
    "backends": _backends,
    "bundled_model": _bundled_model,
    "tools": _tools,
}


def _text(report: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in report.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", _text(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}")
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_scalar, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value)
