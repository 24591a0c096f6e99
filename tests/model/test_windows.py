"""Filters over windows, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from fourreal_kernels.model.windows import window_mean, window_median, window_sum

every_case = pytest.mark.parametrize("window", [1, 3, 5, 7])
every_shape = pytest.mark.parametrize("shape", [(3, 2, 17, 40), (1, 1, 1, 3), (2, 5, 4, 1)])


@every_case
@every_shape
def test_sums_and_means(window, shape):
    x = torch.randn(shape, dtype=torch.float64)
    mean = F.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)
    torch.testing.assert_close(window_mean(x, window), mean)
    total = F.avg_pool2d(x, window, 1, window // 2) * window**2
    torch.testing.assert_close(window_sum(x, window), total)


@every_case
@every_shape
def test_median(window, shape):
    x = torch.randn(shape).round(decimals=1)  # with equal values
    padded = F.pad(x, [window // 2] * 4, mode="replicate")
    windows = padded.unfold(2, window, 1).unfold(3, window, 1).flatten(4)
    assert torch.equal(window_median(x, window), windows.median(dim=-1).values)


def test_the_median_of_many_images_is_that_of_each():
    x = torch.randn(20, 1, 80, 90)
    together = window_median(x, 3)
    assert torch.equal(together, torch.cat([window_median(image, 3) for image in x.split(1)]))
