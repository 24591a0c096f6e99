"""How far a result is from a float64 reference, and whether that is near enough to be timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Largest error relative to the largest reference value. Sums of some thousand terms in float32 stay within 1e-5.
_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Deviation:
    """How far results are from their reference.

    Attributes:
        error: the largest absolute error over all results.
        relative: the largest error relative to the largest value of its result.
        rms: root of the mean square error over all results.
    """

    error: float
    relative: float
    rms: float = 0.0

    def accepted(self, dtype: torch.dtype) -> bool:
        """False also for NaN."""
        return self.relative <= _TOLERANCE[dtype]


def deviation(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> Deviation:
    """Compare results with their float64 reference.

    Raises:
        ValueError: another number of results, or another shape.
    """
    if [tuple(x.shape) for x in actual] != [tuple(x.shape) for x in expected]:
        shapes = ", ".join(str(tuple(x.shape)) for x in actual)
        raise ValueError(f"results: got shapes {shapes}, expected {', '.join(str(tuple(x.shape)) for x in expected)}")
    error = relative = squares = 0.0
    for got, want in zip(actual, expected, strict=True):
        # max() of Python drops NaN, so a NaN is made infinite here
        difference = torch.nan_to_num(got.double() - want, nan=float("inf"))
        largest = difference.abs().amax().item()
        error = max(error, largest)
        relative = max(relative, largest / max(want.abs().amax().item(), 1e-30))
        squares += difference.square().sum().item()
    return Deviation(error, relative, (squares / sum(x.numel() for x in expected)) ** 0.5)


def edge_tokens(tokens: int, count: int = 16) -> slice | list[int]:
    """Token indices that are checked where tokens are independent: all of them, or the first and the last ``count``."""
    if tokens <= 2 * count:
        return slice(None)
    return [*range(count), *range(tokens - count, tokens)]
