"""The overlap rules of operators that write in place, at little cost where addresses already tell tensors apart."""

from __future__ import annotations

from torch import Tensor

from ..memory import require_writable


def _span(x: Tensor) -> tuple[int, int]:
    """First address, and the one past the last."""
    reach = sum(stride * (size - 1) for stride, size in zip(x.stride(), x.shape, strict=True))
    return x.data_ptr(), x.data_ptr() + (reach + 1) * x.element_size()


def require_separate(destinations: dict[str, Tensor], others: dict[str, Tensor | None]) -> None:
    """Refuse a destination that overlaps itself, another destination or any of the other tensors.

    Raises:
        ValueError: naming the destination and the tensor it overlaps. Nothing has been written.
    """
    tensors = {name: x for name, x in (destinations | others).items() if x is not None}
    spans = {name: _span(x) for name, x in tensors.items()}
    checked: set[str] = set()
    for name, x in destinations.items():
        first, last = spans[name]
        checked.add(name)
        near = {
            other: y for other, y in tensors.items()
            if other not in checked and spans[other][0] < last and first < spans[other][1]
            and y.device == x.device
        }
        require_writable(name, x, **near)
