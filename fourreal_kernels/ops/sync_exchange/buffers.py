"""The overlap rule of operators that write several tensors in place."""

from __future__ import annotations

from torch import Tensor

from ..memory import require_writable


def require_separate(destinations: dict[str, Tensor], others: dict[str, Tensor | None]) -> None:
    """Refuse a destination that overlaps itself, another destination or any of the other tensors.

    Raises:
        ValueError: naming the destination and the tensor it overlaps. Nothing has been written.
    """
    remaining = destinations | others
    for name, x in destinations.items():
        del remaining[name]
        require_writable(name, x, **remaining)
