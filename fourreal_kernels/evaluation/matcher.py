"""Feature matching between two frames without learned weights: corners, normalised correlation, mutual best matches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 7
MOST_CORNERS = 96
LEAST_CORRELATION = 0.8
_MARGIN = WINDOW // 2 + 1
_CORNER_SHARE = 0.01
_FLAT = 1e-4


@dataclass(frozen=True)
class Matches:
    """K matched points: ``first`` and ``second`` ``(K, 2)`` pixels (x, y), pixel centres at half-integers."""

    first: Tensor
    second: Tensor


def match_frames(first: Tensor, second: Tensor, radius: float | None = None) -> Matches:
    """Corners of one frame found again in another.

    Each corner of ``first`` takes the position of ``second`` whose window has the largest normalised cross-correlation
    (each channel without its mean), refined to a fraction of a pixel by a parabola; kept when that is at least 0.8 and
    the way back ends within one pixel of the corner.

    Args:
        first, second: ``(3, H, W)`` in [0, 1], at least 9 x 9.
        radius: largest displacement in pixels; None: a quarter of the shorter side.
    """
    height, width = first.shape[-2:]
    least = 2 * _MARGIN + 1
    if min(height, width) < least:
        raise ValueError(f"first: got {height} x {width} pixels, expected at least {least} x {least}")
    radius = min(height, width) / 4 if radius is None else radius
    corner = _corners(first)
    windows_first, windows_second = _windows(first), _windows(second)
    place = _places(height, width)
    ahead = _correlation(windows_first[:, corner], windows_second, place[corner], (height, width), radius)
    best, found = ahead.max(1)
    back = _correlation(windows_second[:, found], windows_first, place[found], (height, width), radius).argmax(1)
    mutual = (place[back] - place[corner]).abs().amax(1) <= 1
    kept = mutual & (best >= LEAST_CORRELATION)
    shift = _refine(ahead.view(-1, height, width), found)
    return Matches(place[corner][kept] + 0.5, place[found][kept] + 0.5 + shift[kept])


def _places(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1).float()


def _corners(frame: Tensor) -> Tensor:
    """Flat indices of the strongest local maxima of the smaller eigenvalue of the structure tensor."""
    gray = F.pad(frame.mean(0)[None, None], (1, 1, 1, 1), mode="replicate")
    dx = (gray[..., 1:-1, 2:] - gray[..., 1:-1, :-2]) / 2
    dy = (gray[..., 2:, 1:-1] - gray[..., :-2, 1:-1]) / 2
    xx, yy, xy = (F.avg_pool2d(product, 5, 1, 2) for product in (dx * dx, dy * dy, dx * dy))
    strength = (xx + yy) / 2 - (((xx - yy) / 2).square() + xy.square()).sqrt()
    peak = strength == F.max_pool2d(strength, 5, 1, 2)
    strength, peak = strength[0, 0], peak[0, 0]
    inner = torch.zeros_like(peak)
    inner[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = True
    strength = torch.where(peak & inner & (strength > _CORNER_SHARE * strength.max()), strength, 0.0).flatten()
    value, index = strength.topk(min(MOST_CORNERS, strength.numel()))
    return index[value > 0]


def _windows(frame: Tensor) -> Tensor:
    """``(3 * WINDOW^2, H * W)``: the window round every pixel, each channel without its mean, of unit length."""
    padded = F.pad(frame[None], [WINDOW // 2] * 4, mode="replicate")
    windows = F.unfold(padded, WINDOW)[0].view(3, WINDOW * WINDOW, -1)
    windows = (windows - windows.mean(1, keepdim=True)).flatten(0, 1)
    square = windows.square().sum(0)
    return windows * torch.where(square > _FLAT**2, square.clamp_min(_FLAT**2).rsqrt(), 0.0)


def _correlation(query: Tensor, windows: Tensor, centre: Tensor, size: tuple[int, int], radius: float) -> Tensor:
    """``(K, H * W)``: correlation of each of K queries ``(D, K)`` with every window, -1 beyond the radius."""
    column, row = ((centre[:, axis, None] - torch.arange(size[1 - axis])).abs() <= radius for axis in (0, 1))
    near = (row[:, :, None] & column[:, None, :]).flatten(1)
    return (query.T @ windows).masked_fill_(~near, -1.0)


def _refine(surface: Tensor, found: Tensor) -> Tensor:
    """Offsets (dx, dy) of the tops of parabolas through the best value and its neighbours; 0 at the border."""
    height, width = surface.shape[-2:]
    row, column = found // width, found % width
    index = torch.arange(len(surface))

    def value(dy: int, dx: int) -> Tensor:
        return surface[index, (row + dy).clamp(0, height - 1), (column + dx).clamp(0, width - 1)]

    def top(before: Tensor, here: Tensor, after: Tensor) -> Tensor:
        curve = before - 2 * here + after
        offset = torch.where(curve < -1e-6, (before - after) / (2 * curve.clamp_max(-1e-6)), 0.0)
        return torch.where((before > -1) & (after > -1), offset.clamp(-0.5, 0.5), 0.0)

    here = value(0, 0)
    return torch.stack([top(value(0, -1), here, value(0, 1)), top(value(-1, 0), here, value(1, 0))], dim=1)
