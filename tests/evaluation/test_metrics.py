"""Metrics against values computed by hand or by loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fourreal_kernels.evaluation import gradient_energy_ratio, moving_pixels, psnr, ssim
from fourreal_kernels.evaluation.metrics import gradient_energy
from naive_ssim import naive_ssim

SHAPE = (2, 3, 3, 14, 17)


def _pair():
    truth = torch.rand(SHAPE)
    return (truth + 0.1 * torch.randn(SHAPE)).clamp(0, 1), truth


def test_psnr_of_a_known_error():
    truth = torch.full(SHAPE, 0.5)
    assert psnr(truth + 0.1, truth) == pytest.approx(20.0, abs=1e-3)
    assert psnr(truth - 0.01, truth) == pytest.approx(40.0, abs=1e-2)
    assert psnr(truth, truth) > 100


def test_psnr_is_that_of_the_mean_squared_error():
    predicted, truth = _pair()
    error = np.mean((predicted.numpy().astype(np.float64) - truth.numpy()) ** 2)
    assert psnr(predicted, truth) == pytest.approx(10 * np.log10(1 / error), abs=1e-4)


def test_masked_psnr_counts_the_pixels_of_the_mask_in_all_channels():
    truth = torch.full(SHAPE, 0.5)
    predicted = truth + 0.4
    mask = torch.zeros(2, 3, 14, 17, dtype=torch.bool)
    mask[1, 2, 3, 4:6] = True
    predicted[1, 2, 0, 3, 4:6] = 0.5 + 0.3
    predicted[1, 2, 1, 3, 4:6] = 0.5
    predicted[1, 2, 2, 3, 4:6] = 0.5
    assert psnr(predicted, truth, mask) == pytest.approx(-10 * np.log10(0.09 / 3), abs=1e-3)


def test_ssim_equals_a_loop_over_windows():
    predicted, truth = _pair()
    expected = naive_ssim(predicted.flatten(0, 2).numpy(), truth.flatten(0, 2).numpy())
    assert 0.3 < expected < 0.99
    assert ssim(predicted, truth) == pytest.approx(expected, abs=1e-5)


def test_ssim_of_equal_and_of_unrelated_frames():
    truth = torch.rand(SHAPE)
    assert ssim(truth, truth) == pytest.approx(1.0, abs=1e-5)
    assert abs(ssim(torch.rand(SHAPE), truth)) < 0.1
    assert ssim(1 - truth, truth) < -0.5


def test_moving_pixels_differ_from_the_first_timestep_of_their_view():
    truth = torch.full((2, 3, 3, 4, 5), 0.5)
    truth[1] += 0.3  # another view, not another time
    truth[0, 1, 2, 0, 0] += 0.11
    truth[0, 2, 1, 1, 1] -= 0.2
    truth[1, 2, 0, 2, 2] -= 0.09
    moving = moving_pixels(truth)
    assert moving.dtype == torch.bool
    assert moving.nonzero().tolist() == [[0, 1, 0, 0], [0, 2, 1, 1]]


def test_gradient_energy_equals_a_loop():
    frames, mask = torch.rand(2, 3, 3, 5, 6), torch.rand(2, 3, 5, 6) < 0.5
    expected = 0.0
    for v, t, y, x in mask.nonzero().tolist():
        if y < 4 and x < 5:
            here, right, lower = (frames[v, t, :, a, b] for a, b in ((y, x), (y, x + 1), (y + 1, x)))
            expected += float((right - here).square().sum() + (lower - here).square().sum())
    assert gradient_energy(frames, mask) == pytest.approx(expected, rel=1e-5)


def test_gradient_energy_ratio_falls_with_blur_and_rises_with_noise():
    truth = F.interpolate(torch.rand(6, 3, 7, 8), scale_factor=2, mode="bilinear").view(2, 3, 3, 14, 16)
    mask = torch.rand(2, 3, 14, 16) < 0.6
    blurred = F.avg_pool2d(truth.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(truth)
    noisy = truth + 0.1 * torch.randn_like(truth)
    assert gradient_energy_ratio(truth, truth, mask) == pytest.approx(1)
    assert gradient_energy_ratio(blurred, truth, mask) < 0.8
    assert gradient_energy_ratio(noisy, truth, mask) > 1.2
    assert gradient_energy_ratio(0.5 * truth, truth, mask) == pytest.approx(0.25, rel=1e-4)


def test_gradient_energy_ratio_is_measured_on_the_mask_only():
    truth = torch.rand(2, 3, 3, 5, 6)
    mask = torch.zeros(2, 3, 5, 6, dtype=torch.bool)
    mask[0, 0, 1, 1] = True
    predicted = torch.rand_like(truth)
    predicted[0, 0] = truth[0, 0]
    assert gradient_energy_ratio(predicted, truth, mask) == pytest.approx(1)
