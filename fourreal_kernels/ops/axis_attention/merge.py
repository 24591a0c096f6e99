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
    if len(outs) == 0 or len(outs) != len(lses):
        raise ValueError(f"outs, lses: got {len(outs)} outs and {len(lses)} lses, expected as many of each, at least 1")
    for index, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        checks.require_tensor(f"outs[{index}]", out)
        checks.require_tensor(f"lses[{index}]", lse)
        checks.require_floating(f"outs[{index}]", out)
        checks.require_floating(f"lses[{index}]", lse)
        checks.require_like(f"outs[{index}]", out, "outs[0]", outs[0])
        checks.require_like(f"lses[{index}]", lse, "lses[0]", lses[0])
        if lse.shape != out.shape[:-1]:
            raise ValueError(
                f"lses[{index}]: got shape {tuple(lse.shape)}, expected {tuple(out.shape[:-1])}, "
                f"the shape of outs[{index}] without its last dim"
            )


def _merge(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    dtype = checks.accumulation_dtype(outs[0].dtype)
    stacked = torch.stack([lse.to(dtype) for lse in lses])
    lse = torch.logsumexp(stacked, dim=0)
    finite = lse.masked_fill(lse == float("-inf"), 0.0)
    weights = torch.exp(stacked - finite)
    merged = sum(out.to(dtype) * weight[..., None] for out, weight in zip(outs, weights, strict=True))
    return merged.to(outs[0].dtype), lse


library.define("merge_attention(Tensor[] outs, Tensor[] lses) -> (Tensor out, Tensor lse)")
library.impl("merge_attention", _merge, "CompositeImplicitAutograd")
