"""What is measured: a case, the providers that compute it, and the check of their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import fourreal_kernels

from .check import Deviation

Results = tuple[Tensor, ...]


@dataclass(frozen=True)
class Context:
    """Where and with what a run measures.

    Attributes:
        device: the device of every tensor.
        backends: our backends that are timed.
        compile: whether peers made by ``torch.compile`` take part.
    """

    device: torch.device
    backends: tuple[str, ...]
    compile: bool = True


@dataclass
class Provider:
    """One implementation of a case.

    Attributes:
        run: one call; returns what it computed (for an in-place form, the buffers it wrote).
        refresh: restores inputs that ``run`` overwrites; not timed.
        finish: brings the results into the layout of the check; not timed.
        compiled: the first call compiles, so memory is measured at the second.
        process: a call is a process of its own: no warm-up, one call per sample, its memory is not measured.
        stages: seconds of the parts of the last call, recorded beside those of the whole.
        known_seconds: of the checked call; a long one needs no further trial before it is timed.
    """

    name: str
    run: Callable[[], Results]
    refresh: Callable[[], None] | None = None
    finish: Callable[[Results], Results] | None = None
    compiled: bool = False
    process: bool = False
    stages: Callable[[], dict[str, float]] | None = None
    known_seconds: float = 0.0


@dataclass
class Workload:
    """The inputs of a case, bound into its providers.

    Attributes:
        check: compares finished results with the float64 reference.
        absent: providers that do not take part, with the reason.
    """

    check: Callable[[Results], Deviation]
    providers: list[Provider] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def peer(self, name: str, run: Callable[[], Results], **options: Any) -> None:
        self.providers.append(Provider(name, run, **options))

    def compiled_peer(
        self, context: Context, name: str, make: Callable[[], Callable[[], Results]], **options: Any
    ) -> None:
        """``make`` gives the call; without compiled peers it is not asked, as the compiler takes seconds to import."""
        if context.compile:
            self.providers.append(Provider(name, make(), compiled=True, **options))
        else:
            self.absent[name] = "a quick run compiles nothing"

    def ours(
        self, context: Context, op: str, make: Callable[[str], Callable[[], Results]], *args: Any,
        label: str = "", explained: dict[str, Any] | None = None, **options: Any,
    ) -> None:
        """Add our backends of ``op`` that can run it on these arguments; the others are listed with the reason.

        Args:
            make: gives the call of a backend.
            args, explained: positional and keyword arguments that :func:`fourreal_kernels.explain` judges.
            label: appended to the provider's name.
            options: of the :class:`Provider`.
        """
        for backend in context.backends:
            name = f"ours:{backend}{label}"
            reason = _why_not(op, backend, args, explained or {})
            if reason is None:
                self.providers.append(Provider(name, make(backend), **options))
            else:
                self.absent[name] = reason


def _why_not(op: str, backend: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Why our ``backend`` cannot run ``op`` on these arguments, or None."""
    try:
        reason = fourreal_kernels.explain(op, *args, **kwargs).reasons[backend]
    except ValueError as error:
        return " ".join(str(error).split())
    return None if reason == "chosen" or reason.startswith("can run") else reason


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        op: the operator, as it is called in Python.
        axes: the axes attended over, empty for other operators.
        sizes: the sizes that name the case, such as V, T, N, H, D.
        direction: ``"forward"``, ``"backward"`` or ``"forward+backward"``.
        output: where the result goes: ``"fresh"``, ``"given"`` or ``"in place"``.
        flops, bytes: of one call; bytes are those that must move at least. 0 where the figure says nothing.
        main_peer: the provider whose error is reported beside ours.
        build: allocates the inputs.
        variant: what else distinguishes the case.
    """

    suite: str
    op: str
    sizes: dict[str, int]
    build: Callable[[Context], Workload]
    main_peer: str
    axes: str = ""
    variant: str = ""
    dtype: torch.dtype = torch.float32
    direction: str = "forward"
    output: str = "fresh"
    flops: float = 0.0
    bytes: float = 0.0

    @property
    def name(self) -> str:
        sizes = " ".join(f"{key}{value}" for key, value in self.sizes.items())
        parts = [self.op, self.axes, self.variant, self.direction, f"{self.output} output", sizes]
        return " / ".join(part for part in parts if part)


def random_tensor(context: Context, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same for the same shape and seed."""
    generator = torch.Generator(device=context.device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=context.device, dtype=dtype)
