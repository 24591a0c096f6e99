"""What an operator's Triton kernels offer to the ahead-of-time tests and to ``fourreal tune``.

An operator with a Triton backend has two modules of one function each:

* ``ops/<op>/triton_cases.py``: ``compile_cases(arch) -> list[CompileCase]``, one case per shipped configuration
  (kernel, head-dim bucket, dtype); it may import Triton. Parts of an operator have ``triton_<part>_cases.py``;
* ``ops/<op>/triton_candidates.py``: ``tuning_candidates(arch) -> list[TuneTask]``, what is measured on a chip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from torch import Tensor

from .. import dispatch


@dataclass(frozen=True)
class CompileCase:
    """One kernel with one configuration, compiled without a GPU.

    ``fn`` is the ``triton.jit`` function. ``signature`` gives the type of every run-time argument (``"*bf16"``,
    ``"i64"``, ``"fp32"``, ...), ``constexprs`` the value of every other one. ``divisible`` names the run-time
    arguments (pointers, strides) that are multiples of 16, as the launcher finds them on aligned tensors.
    """

    name: str
    fn: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int
    num_stages: int
    divisible: tuple[str, ...] = ()


@dataclass(frozen=True)
class TuneTask:
    """One bucket of one kernel that ``fourreal tune`` measures.

    ``make()`` allocates the inputs on the current GPU and returns a function that runs the kernel once with the
    configuration it is given, and returns the results; it may call the operator within
    :func:`fourreal_kernels.tuning.forced`. ``head_dim`` and ``length`` are the inclusive ranges in which the winner is
    used, as in :mod:`fourreal_kernels.tuning`; the inputs stand for that bucket. A candidate that does not fit the chip
    may raise.
    """

    kernel: str
    head_dim: tuple[int, int]
    length: tuple[int, int]
    dtype_bytes: int
    candidates: list[dict[str, int]] = field(repr=False)
    make: Callable[[], Callable[[dict[str, int]], Sequence[Tensor]]] = field(repr=False)


def case_modules() -> dict[str, ModuleType]:
    """The ``triton_cases`` and ``triton_<part>_cases`` modules of the operators, by names of package and part.

    Raises:
        ModuleNotFoundError: Triton is not installed.
    """
    found = {}
    for package in dict.fromkeys(operator.package for operator in dispatch.operators()):
        op = package.rpartition(".")[2]
        for module in iter_modules(import_module(package).__path__):
            if module.name.startswith("triton_") and module.name.endswith("cases"):
                part = module.name.removeprefix("triton_").removesuffix("cases").strip("_")
                found[f"{op}.{part}" if part else op] = import_module(f"{package}.{module.name}")
    return found


def candidate_modules() -> dict[str, ModuleType]:
    """By name of the operator's package, the ``triton_candidates`` module of each operator that has one."""
    return _modules("triton_candidates")


def _modules(name: str) -> dict[str, ModuleType]:
    packages = dict.fromkeys(operator.package for operator in dispatch.operators())
    found = {package: f"{package}.{name}" for package in packages if find_spec(f"{package}.{name}")}
    return {package.rpartition(".")[2]: import_module(module) for package, module in found.items()}
