"""Lazy access to the compiled libraries. Importing this module loads none of them."""

import importlib
import importlib.util
from functools import cache
from types import ModuleType

_BUILD_NEEDS = {
    "cpu": "a C++ compiler, and FOURREAL_BUILD not set to 0",
    "cuda": "nvcc (CUDA 12 or newer) and a C++ compiler, and FOURREAL_BUILD not set to 0",
}


@cache
def _load(name: str) -> tuple[ModuleType | None, str]:
    """The module and "", or None and why it is missing. ValueError for a name other than "cpu" and "cuda"."""
    if name not in _BUILD_NEEDS:
        raise ValueError(f"name: expected 'cpu' or 'cuda', got {name!r}")
    import torch  # noqa: F401  its OpenMP runtime has to be in the process first, so that both share it

    module_name = f"fourreal_kernels._{name}"
    if importlib.util.find_spec(module_name) is None:
        return None, f"not built: {module_name} is built by `pip install .`, with {_BUILD_NEEDS[name]}"
    try:
        return importlib.import_module(module_name), ""
    except ImportError as error:
        return None, str(error)


def cpu_library() -> ModuleType | None:
    """The compiled CPU kernels, or None (then `why_missing("cpu")` says why)."""
    return _load("cpu")[0]


def cuda_library() -> ModuleType | None:
    """The compiled CUDA kernels, or None (then `why_missing("cuda")` says why).

    Loads without a GPU or driver: ask the module's `device_count()` and `why_no_device()` about those.
    """
    return _load("cuda")[0]


def why_missing(name: str) -> str:
    """Why the library "cpu" or "cuda" cannot be used: "not built: ..." or the import error. Empty if it can.

    Raises ValueError for any other name.
    """
    return _load(name)[1]
