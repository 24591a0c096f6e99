"""The overlap rules of operators that write in place, at little cost where addresses already tell tensors apart."""

from __future__ import annotations

from torch import Tensor

from ..memory import require_writable


def _span(x: Tensor) -> tuple[int, int]:
    """First address, and the one past the last."""
    first = x.data_ptr()
    if x.is_contiguous():
        return first, first + x.nbytes
    reach = sum(stride * (size - 1) for stride, size in zip(x.stride(), x.shape, strict=True))
    return first, first + (reach + 1) * x.element_size()


def require_separate(destinations: dict[str, Tensor], others: dict[str, Tensor | None]) -> None:
    """Refuse a destination that overlaps itself, another destination or any of the other tensors.

    Raises:
        ValueError: naming the destination and the tensor it overlaps. Nothing has been written.
    """
    tensors = {name: x for name, x in (destinations | others).items() if x is not None}
    spans = {name: _span(x) for name, x in tensors.items()}
    for name, x in destinations.items():
        first, last = spans.pop(name)
        near = {other: tensors[other] for other, (start, end) in spans.items() if start < last and first < end}
        if near or not x.is_contiguous():
            require_writable(name, x, **near)
