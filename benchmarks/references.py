"""Float64 references of attention: of everything, or of some frames where all would take longer than the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fourreal_kernels as fk
from fourreal_kernels.grid import parse_axes

from .check import Deviation, deviation, edge_tokens

# Above this many multiply-adds the float64 reference is computed for two frames and two heads only.
_LARGEST_WHOLE = 2.5e9

Frame = tuple[int, int]


class AttentionCheck:
    """Compares attention over axes that span the tokens of a frame, and its gradients, with float64.

    Args:
        q, k, v: the inputs, ``(B, V, T, N, H, D)``.
        grad: the gradient of the output; then results are (dq, dk, dv) instead of (out,).
        extra: keys and values ``(B, L, H, D)`` outside the grid that every token attends to.
    """

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, axes: str, grad: Tensor | None = None,
        extra: tuple[Tensor, Tensor] | None = None,
    ):
        self._inputs, self._axes, self._grad, self._extra = (q, k, v), axes, grad, extra
        _, views, times, tokens, heads, head_dim = q.shape
        keys = parse_axes(axes).keys_per_query(views, times, tokens)
        self._whole = 2 * q.numel() * keys <= _LARGEST_WHOLE
        self._frames = sorted({(0, 0), (views - 1, times // 2)})
        self._heads = sorted({0, heads - 1})
        self._expected: list[Tensor] | None = None

    def __call__(self, results: Sequence[Tensor]) -> Deviation:
        if self._expected is None:
            self._expected = self._whole_reference() if self._whole else self._partial_reference()
        return deviation(list(results) if self._whole else self._part(results), self._expected)

    def _whole_reference(self) -> list[Tensor]:
        wide = [x.detach().double().requires_grad_(self._grad is not None) for x in self._inputs]
        extra_k, extra_v = (x.double() for x in self._extra) if self._extra else (None, None)
        out = fk.axis_attention(*wide, self._axes, extra_k=extra_k, extra_v=extra_v, backend="reference")
        if self._grad is None:
            return [out]
        return list(torch.autograd.grad(out, wide, self._grad.double()))

    def _part(self, results: Sequence[Tensor]) -> list[Tensor]:
        return [
            torch.stack([x[0, v, t, :, h] for v, t in self._frames for h in self._heads]) for x in results
        ]

    def _partial_reference(self) -> list[Tensor]:
        with torch.no_grad():
            parts = [self._frame(frame, head) for frame in self._frames for head in self._heads]
        return [torch.stack(part) for part in zip(*parts, strict=True)]

    def _frame(self, frame: Frame, head: int) -> tuple[Tensor, ...]:
        if self._grad is None:
            return (self._attend(frame, head)[1],)
        return self._gradients(frame, head)

    def _rows(self, x: Tensor, frames: Sequence[Frame], head: int) -> Tensor:
        return torch.cat([x[0, v, t, :, head] for v, t in frames]).detach().double()

    def _keys(self, frames: Sequence[Frame], head: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the frames, then those outside the grid."""
        found = [self._rows(x, frames, head) for x in self._inputs[1:]]
        if self._extra:
            found = [torch.cat([x, y[0, :, head].double()]) for x, y in zip(found, self._extra, strict=True)]
        return found[0], found[1]

    def _neighbours(self, frame: Frame) -> list[Frame]:
        """The frames that a frame attends to, which are those that attend to it."""
        _, views, times, *_ = self._inputs[0].shape
        groups = parse_axes(self._axes).groups
        return [
            (v, t)
            for v in range(views)
            for t in range(times)
            if any((v == frame[0] or "v" in group) and (t == frame[1] or "t" in group) for group in groups)
        ]

    def _attend(self, frame: Frame, head: int) -> tuple[Tensor, Tensor]:
        """Probabilities (N, keys) and output (N, D) of the queries of one frame."""
        q = self._inputs[0]
        keys, values = self._keys(self._neighbours(frame), head)
        scores = self._rows(q, [frame], head) @ keys.T * q.shape[-1] ** -0.5
        probabilities = scores.softmax(-1)
        return probabilities, probabilities @ values

    def _gradients(self, frame: Frame, head: int) -> tuple[Tensor, ...]:
        """dq of the frame's queries, dk and dv of its keys, which every neighbour's queries reach."""
        q, _, v = self._inputs
        tokens, scale = q.shape[3], q.shape[-1] ** -0.5
        dk = dv = 0.0
        for source in self._neighbours(frame):
            keys = self._neighbours(source)
            probabilities, out = self._attend(source, head)
            grad = self._rows(self._grad, [source], head)
            delta = (grad * out).sum(-1, keepdim=True)
            start = keys.index(frame) * tokens
            columns = probabilities[:, start : start + tokens]
            d_scores = columns * (grad @ self._rows(v, [frame], head).T - delta) * scale
            dv = dv + columns.T @ grad
            dk = dk + d_scores.T @ self._rows(q, [source], head)
            if source == frame:
                all_keys, values = self._keys(keys, head)
                dq = probabilities * (grad @ values.T - delta) * scale @ all_keys
        return dq, dk, dv


class PointwiseCheck:
    """Compares pointwise attention with float64 at the first and the last tokens of a frame.

    Args:
        q, k, v: the inputs; tokens are independent.
        grad: the gradient of the output; then results are (out, dq, dk, dv) instead of (out,).
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, axes: str, grad: Tensor | None = None):
        self._tokens = edge_tokens(q.shape[3])
        wide = [self._part(x).double().requires_grad_(grad is not None) for x in (q.detach(), k.detach(), v.detach())]
        out = fk.axis_attention(*wide, axes, backend="reference")
        self._expected = [out.detach()]
        if grad is not None:
            self._expected += torch.autograd.grad(out, wide, self._part(grad).double())

    def __call__(self, results: Sequence[Tensor]) -> Deviation:
        return deviation([self._part(x.detach()) for x in results], self._expected)

    def _part(self, x: Tensor) -> Tensor:
        return x[:, :, :, self._tokens]
