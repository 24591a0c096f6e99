"""Filters over square windows of images, from shifted copies of the whole image.

On a CPU they take a fraction of the time of ``avg_pool2d`` and of ``median`` over unfolded windows, whose inner loops
are not vectorised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements filtered at a time by the median: with fewer the calls cost time, with more the cache misses.
_MEDIAN_ELEMENTS = 64 << 10


def window_sum(x: Tensor, window: int) -> Tensor:
    """Sum over the window around each pixel, zero outside the image.

    Args:
        x: ``(..., H, W)``.
        window: side of the window in pixels, odd.
    """
    return _line_sum(_line_sum(x, window, -1), window, -2)


def window_mean(x: Tensor, window: int) -> Tensor:
    """Mean over those pixels of the window around each pixel that are in the image; arguments as :func:`window_sum`."""
    return window_sum(x, window) / window_sum(x.new_ones(x.shape[-2:]), window)


def _line_sum(x: Tensor, window: int, dim: int) -> Tensor:
    radius, length = window // 2, x.shape[dim]
    total = x.clone()
    for shift in range(1, min(radius, length - 1) + 1):
        near, far = (0, length - shift), (shift, length - shift)
        total.narrow(dim, *near).add_(x.narrow(dim, *far))
        total.narrow(dim, *far).add_(x.narrow(dim, *near))
    return total


def window_median(x: Tensor, window: int) -> Tensor:
    """Median over the window around each pixel, the border repeated outside the image.

    Args:
        x: ``(M, C, H, W)``.
        window: side of the window in pixels, odd.
    """
    images = x.flatten(0, 1)[:, None]
    count = max(1, _MEDIAN_ELEMENTS // images[0].numel()) if x.device.type == "cpu" else len(images)
    return torch.cat([_median_of(_shifted(part, window)) for part in images.split(count)]).view_as(x)


def _shifted(x: Tensor, window: int) -> list[Tensor]:
    height, width = x.shape[-2:]
    padded = F.pad(x, [window // 2] * 4, mode="replicate")
    return [padded[..., i : i + height, j : j + width] for i in range(window) for j in range(window)]


def _median_of(planes: list[Tensor]) -> Tensor:
    """Elementwise median of an odd number of tensors.

    Of n // 2 + 2 of them the largest and the smallest cannot be the median of all n, whatever the others are: they
    are dropped, one of the others comes in, until one is left.
    """
    held = len(planes) // 2 + 2
    kept, waiting = planes[:held], planes[held:]
    while len(kept) > 1:
        kept = _without_extremes(kept) + waiting[:1]
        waiting = waiting[1:]
    return kept[0]


def _without_extremes(planes: list[Tensor]) -> list[Tensor]:
    """All but the elementwise smallest and largest."""
    half = len(planes) // 2
    pairs = list(zip(planes[:half], planes[half : 2 * half], strict=True))
    smallest, *lower = [torch.minimum(a, b) for a, b in pairs] + planes[2 * half :]
    rest = []
    for x in lower:
        rest.append(torch.maximum(smallest, x))
        smallest = torch.minimum(smallest, x)
    largest, *upper = [torch.maximum(a, b) for a, b in pairs]
    if len(planes) % 2:
        upper.append(rest.pop())
    for x in upper:
        rest.append(torch.minimum(largest, x))
        largest = torch.maximum(largest, x)
    return rest
