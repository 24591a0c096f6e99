"""Merging attention over disjoint sets of keys by their log-sum-exp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import checks
from ..library import library


def merge_attention(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Merge attention results over disjoint key sets into the attention over their union.

    out = sum_i exp(lse_i - lse) out_i with lse = log sum_i exp(lse_i). An empty set has lse = -inf and adds nothing.

    Args:
        outs: tensors of one shape ``(..., D)``, dtype and device.
        lses: the matching log-sum-exps ``(...)``, natural log, float32 (float64 for float64 outs).

    Returns:
        ``(out, lse)`` with out in the dtype of ``outs``; differentiable with respect to every argument.

    Raises:
        TypeError: an item is not a tensor or has the wrong dtype.
        ValueError: no items, differing counts, shapes or devices.
    """
    _check(outs, lses)
    return torch.ops.fourreal_kernels.merge_attention(list(outs), list(lses))


def _check(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> None:
    for name, items in (("outs", outs), ("lses", lses)):
        if not isinstance(items, tuple | list):
            raise TypeError(f"{name}: expected a list or tuple of tensors, got {type(items).__name__}")
    if len(outs) == 0 or len(outs) != len(lses):
        raise ValueError(f"outs, lses: got {len(outs)} outs and {len(lses)} lses, expected as many of each, at least 1")
    for index, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        checks.require_tensor(f"outs[{index}]", out)
        checks.require_tensor(f"lses[{index}]", lse)
        checks.require_floating(f"outs[{index}]", out)
        checks.require_like(f"outs[{index}]", out, "outs[0]", outs[0])
        _check_lse(f"lses[{index}]", lse, outs[0])


def _check_lse(name: str, lse: Tensor, out: Tensor) -> None:
    dtype = checks.accumulation_dtype(out.dtype)
    if lse.device != out.device:
        raise ValueError(f"{name}: got device {lse.device}, expected {out.device} as outs[0]; move one of them")
    if lse.dtype != dtype:
        raise TypeError(f"{name}: got dtype {lse.dtype}, expected {dtype} for outs of {out.dtype}")
    if lse.shape != out.shape[:-1]:
        raise ValueError(
            f"{name}: got shape {tuple(lse.shape)}, expected {tuple(out.shape[:-1])}, "
            "the shape of outs without its last dim"
        )


def _merge(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    dtype = checks.accumulation_dtype(outs[0].dtype)
    stacked = torch.stack([lse.to(dtype) for lse in lses])
    largest = stacked.detach().amax(0)
    largest = largest.masked_fill(largest == float("-inf"), 0.0)
    weights = torch.exp(stacked - largest)
    total = weights.sum(0)
    empty = total == 0
    total = total.masked_fill(empty, 1.0)  # keeps 0 / 0 and log(0) out of the gradient
    merged = sum(out.to(dtype) * weight[..., None] for out, weight in zip(outs, weights / total, strict=True))
    return merged.to(outs[0].dtype), (largest + total.log()).masked_fill(empty, float("-inf"))


library.define("merge_attention(Tensor[] outs, Tensor[] lses) -> (Tensor out, Tensor lse)")
library.impl("merge_attention", _merge, "CompositeImplicitAutograd")
