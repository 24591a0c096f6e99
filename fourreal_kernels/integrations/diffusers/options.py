"""What a caller of ``apply_to`` may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from ... import dispatch

MODES = ("time", "sequential", "fused", "two_stream")
SYNCS = ("soft", "hard")
OUTPUTS = ("mean", "view", "time")


@dataclass(frozen=True)
class Options:
    """The arguments of :func:`apply_to`, checked."""

    mode: str
    views: int | None
    max_times: int | None
    sync: str
    sync_cond_dim: int
    sync_per_channel: bool
    output: str
    backend: str | None

    def __post_init__(self):
        _check_choice("mode", self.mode, MODES)
        _check_choice("sync", self.sync, SYNCS)
        _check_choice("output", self.output, OUTPUTS)
        for name in ("views", "max_times"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        _check_count("sync_cond_dim", self.sync_cond_dim)
        dispatch.requested(self.backend)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, choices))}")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: got {type(value).__name__}, expected an int")
    if value < 1:
        raise ValueError(f"{name}: got {value}, expected at least 1")
