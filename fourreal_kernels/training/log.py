"""What a run writes while it goes on: a line of JSON at a time, and a progress bar."""

from __future__ import annotations

import json
from pathlib import Path

from ..data.optional import import_optional


class RunLog:
    """``log.jsonl`` of a run; half a line that a killed process left is removed.

    Args:
        path: of the file; None writes nothing.
    """

    def __init__(self, path: Path | None):
        self.path = path
        if path is not None and path.is_file():
            whole = path.read_bytes()
            if not whole.endswith(b"\n"):
                path.write_bytes(whole[: whole.rfind(b"\n") + 1])

    def write(self, **values) -> None:
        if self.path is not None:
            with open(self.path, "a") as file:
                file.write(json.dumps(values) + "\n")


class Speed:
    """Samples and arithmetic per second since it was last asked."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._samples, self._flops, self._seconds, self._steps = 0, 0, 0.0, 0

    def add(self, samples: int, flops: int, seconds: float) -> None:
        self._samples += samples
        self._flops += flops
        self._seconds += seconds
        self._steps += 1

    def take(self) -> dict[str, float]:
        """``seconds_per_step``, ``grids_per_second`` (of lines in a phase of lines) and ``tflops``."""
        seconds = max(self._seconds, 1e-9)
        rates = {
            "seconds_per_step": self._seconds / max(self._steps, 1),
            "grids_per_second": self._samples / seconds,
            "tflops": self._flops / seconds / 1e12,
        }
        self._start()
        return {name: float(f"{value:.4g}") for name, value in rates.items()}


class ProgressBar:
    """tqdm over the finished part of the run, with loss and time left."""

    def __init__(self, shown: bool):
        self.bar = None
        if shown:
            tqdm = import_optional("tqdm", "progress=True").tqdm
            self.bar = tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}{postfix}")

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, done: float, step: int, phase: str, loss: float, seconds: float) -> None:
        """``done`` from 0 to 1, ``seconds`` of the run until now."""
        if self.bar is None:
            return
        left = seconds * (1 - done) / done if done > 0 else 0.0
        self.bar.n = round(100 * done, 1)
        self.bar.set_postfix_str(f"step {step}, {phase}, loss {loss:.4f}, {left / 60:.0f} min left")
