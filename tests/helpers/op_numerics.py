"""The precision rule of the operator tests, and destinations that show what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LOW_PRECISION = (torch.float32, torch.bfloat16, torch.float16)


def dtype_name(value: object) -> str | None:
    """Parameter id of a dtype; None leaves other values to pytest."""
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


def worst_error(actual: Tensor, expected: Tensor) -> float:
    return (actual.double() - expected.double()).abs().max().item()


def assert_close_as_pytorch(
    actual: Tensor, expected_fp64: Tensor, *same_dtype_pytorch: Tensor, lse_magnitude: float = 0.0
) -> None:
    """The error is at most twice that of plain PyTorch in the same dtype, plus one rounding unit of the dtype.

    Of several forms of plain PyTorch the one with the largest error counts.

    ``lse_magnitude`` is for results weighted by a log-sum-exp that was itself rounded to fp32: such a weight is known
    only to the spacing of numbers near the log-sum-exp. In float64 plain PyTorch is the expected value itself and has
    no error to double, so the sums of some hundred terms are given 64 units.
    """
    assert actual.shape == expected_fp64.shape
    for plain in same_dtype_pytorch:
        assert actual.dtype == plain.dtype, f"dtype {actual.dtype}, expected {plain.dtype}"
    assert actual.isfinite().all(), "not finite"
    largest = expected_fp64.abs().max().item()
    units = 64 if actual.dtype == torch.float64 else 1
    accumulation = torch.float64 if actual.dtype == torch.float64 else torch.float32
    bound = 2 * max(worst_error(plain, expected_fp64) for plain in same_dtype_pytorch)
    bound += units * torch.finfo(actual.dtype).eps * largest
    bound += lse_magnitude * torch.finfo(accumulation).eps * largest
    error = worst_error(actual, expected_fp64)
    assert error <= bound, f"error {error:.3e} exceeds {bound:.3e} (largest value {largest:.3e})"


def rms_error(actual: Tensor, expected: Tensor) -> float:
    return (actual.double() - expected.double()).square().mean().sqrt().item()


def assert_rms_close_as_pytorch(actual: Tensor, expected_fp64: Tensor, same_dtype_pytorch: Tensor) -> None:
    """The same rule for the root mean square, where the largest error of few numbers is a matter of the BLAS library:
    one wrong number of ten thousand shows in it as well."""
    assert actual.shape == expected_fp64.shape and actual.dtype == same_dtype_pytorch.dtype
    assert actual.isfinite().all(), "not finite"
    unit = torch.finfo(actual.dtype).eps * expected_fp64.square().mean().sqrt().item()
    bound = 2 * rms_error(same_dtype_pytorch, expected_fp64) + unit
    error = rms_error(actual, expected_fp64)
    assert error <= bound, f"root mean square of the error {error:.3e} exceeds {bound:.3e}"


def assert_all_close_as_pytorch(
    results: Sequence[Tensor], expected_fp64: Sequence[Tensor], same_dtype_pytorch: Sequence[Tensor]
) -> None:
    """The rule for gradients of one call that are sums, with PyTorch's largest relative error over all of them and a
    second unit: its fp32 sum of numbers that nearly cancel, or of a single channel, can happen to be exact."""
    pairs = zip(same_dtype_pytorch, expected_fp64, strict=True)
    relative = max(worst_error(x, y) / y.abs().max().item() for x, y in pairs)
    for actual, wanted, plain in zip(results, expected_fp64, same_dtype_pytorch, strict=True):
        assert actual.dtype == plain.dtype and actual.shape == wanted.shape and actual.isfinite().all()
        bound = 2 * (relative + torch.finfo(actual.dtype).eps) * wanted.abs().max().item()
        assert worst_error(actual, wanted) <= bound


def bitwise_equal(a: Tensor, b: Tensor) -> bool:
    """Same shape, dtype and bits; tells -0.0 from 0.0 and accepts NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(a.element_size())
    if integers is None or not a.is_floating_point():
        return torch.equal(a, b)
    return torch.equal(a.contiguous().view(integers), b.contiguous().view(integers))


@dataclass
class Poisoned:
    """A strided destination inside a NaN-filled buffer, with guard elements on both sides of every dim."""

    buffer: Tensor
    destination: Tensor

    def assert_written_exactly(self) -> None:
        """Every element of the destination was written, and nothing else was."""
        assert not self.destination.isnan().any(), "part of the destination was not written"
        outside = torch.ones(self.buffer.shape, dtype=torch.bool)
        inside = self.destination
        outside.as_strided(inside.shape, inside.stride(), inside.storage_offset()).fill_(False)
        assert self.buffer[outside].isnan().all(), "memory outside the destination was written"


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, order: tuple[int, ...] | None = None) -> Poisoned:
    """A destination of ``shape`` whose dims lie in memory in ``order`` (the last dim innermost)."""
    order = tuple(range(len(shape))) if order is None else order
    buffer = torch.full([shape[dim] + 3 for dim in order], float("nan"), dtype=dtype)
    inside = buffer[tuple(slice(1, 1 + shape[dim]) for dim in order)]
    return Poisoned(buffer, inside.permute([order.index(dim) for dim in range(len(shape))]))
