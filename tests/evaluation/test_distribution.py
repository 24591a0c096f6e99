"""Frechet and kernel distances against closed forms and loops."""

import numpy as np
import pytest
import torch

from fourreal_kernels.evaluation.distribution import frechet_distance, kernel_distance


def _features(count, width, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return scale * torch.randn(count, width, generator=generator) @ mix + shift


def test_one_dimension_has_a_closed_form():
    first, second = _features(40, 1, 0, 2.0), _features(30, 1, 1, 0.5, 3.0)
    expected = (first.mean() - second.mean()) ** 2 + (first.std() - second.std()) ** 2
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("count", [60, 4])
def test_equals_the_eigenvalues_of_the_product_of_covariances(count):
    first, second = _features(60, 6, 0), _features(count, 6, 1, 1.5, 0.3)
    a, b = first.double().numpy(), second.double().numpy()
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.clip(np.linalg.eigvals(covariance_a @ covariance_b).real, 0, None)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * roots
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-4)


def test_equal_sets_have_no_distance_and_shifts_count_squared():
    features = _features(20, 5, 3)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + 2) == pytest.approx(5 * 4, rel=1e-4)


def test_kernel_distance_equals_loops():
    first, second = _features(7, 3, 0), _features(5, 3, 1, shift=0.5)

    def kernel(x, y):
        return (float(x.double() @ y.double()) / 3 + 1) ** 3

    def within(part):
        pairs = [(x, y) for i, x in enumerate(part) for j, y in enumerate(part) if i != j]
        return sum(kernel(x, y) for x, y in pairs) / len(pairs)

    across = sum(kernel(x, y) for x in first for y in second) / 35
    assert kernel_distance(first, second) == pytest.approx(within(first) + within(second) - 2 * across, rel=1e-6)


def test_kernel_distance_is_unbiased():
    values = []
    for seed in range(60):
        pool = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed))
        values.append(kernel_distance(pool[:10], pool[10:]))
    assert min(values) < 0 and abs(np.mean(values)) < 3 * np.std(values) / 60**0.5


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_bad_features_are_refused(distance):
    good = torch.rand(4, 3)
    for bad, message in (
        (torch.rand(1, 3), r"^second: got shape \(1, 3\), expected \(N, D\) with N of at least 2"),
        (torch.rand(4), r"^second: got shape \(4,\)"),
        (torch.rand(4, 2), "^second: got 2 features, expected 3"),
        (good * float("nan"), "^second: holds NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            distance(good, bad)
