"""Distances between two sets of feature vectors: the Frechet distance of their normal fits, and KID."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance between the normal distributions fitted to two sets of features, in float64.

    ``|m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)`` with means m and unbiased covariances C. The eigenvalues of
    C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2), so the last trace is the sum of their roots, also where a
    covariance is singular. Features are used as they are: the value depends on their scale.

    Args:
        first, second: ``(N, D)`` and ``(M, D)``, at least two each. With fewer samples than D + 1 the covariances are
            singular and the value is biased upwards; compare it with a floor of as many samples.
    """
    _check(first, second)
    (mean1, covariance1), (mean2, covariance2) = (_moments(features.double()) for features in (first, second))
    values, vectors = torch.linalg.eigh(covariance1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp_min(0).sqrt().sum()
    difference = (mean1 - mean2).square().sum()
    return float(difference + covariance1.trace() + covariance2.trace() - 2 * product)


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """KID: the unbiased squared maximum mean discrepancy under the kernel ``(x.y / D + 1)^3``, over all samples.

    Unbiased also for few samples, so that it can be below zero for two sets from one distribution.

    Args:
        first, second: ``(N, D)`` and ``(M, D)``, at least two each.
    """
    _check(first, second)
    first, second = first.double(), second.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        values = kernel(x, x)
        return (values.sum() - values.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], features.shape[1])


def _check(first: Tensor, second: Tensor) -> None:
    for name, features in (("first", first), ("second", second)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"{name}: got shape {tuple(features.shape)}, expected (N, D) with N of at least 2")
        if not torch.isfinite(features).all():
            raise ValueError(f"{name}: holds NaN or infinite values, expected finite features")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"second: got {second.shape[1]} features, expected {first.shape[1]} as in first")
