"""Solid textures: closed forms, range, and smoothness."""

import pytest
import torch

from fourreal_kernels.data.textures import CHECKER, DOTS, NOISE, STRIPE, parity, texture_mix, value_noise


def _points(count=20_000, extent=8.0):
    return (torch.rand(3, count, generator=torch.Generator().manual_seed(0)) - 0.5) * 2 * extent


def test_checker_alternates_along_every_axis():
    point = _points()
    mix = texture_mix(CHECKER, point)
    assert set(mix.tolist()) == {0.0, 1.0}
    for axis in range(3):
        step = torch.zeros(3, 1)
        step[axis] = 1.0
        torch.testing.assert_close(texture_mix(CHECKER, point + step), 1 - mix)


def test_stripes_alternate_along_their_direction_only():
    point = _points()
    along, across = torch.tensor([[0.6], [0.0], [0.8]]), torch.tensor([[0.8], [0.0], [-0.6]])
    mix = texture_mix(STRIPE, point)
    assert (texture_mix(STRIPE, point + along) != mix).float().mean() > 0.999
    assert (texture_mix(STRIPE, point + 3.3 * across) == mix).float().mean() > 0.999


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_dots_show_on_every_plane(axis):
    for offset in torch.linspace(0, 3, 13):
        point = _points()
        point[axis] = offset
        share = float(texture_mix(DOTS, point).mean())
        assert 0.05 < share < 0.6


@pytest.mark.parametrize("texture", [CHECKER, STRIPE, DOTS, NOISE])
def test_both_colours_appear_and_no_other(texture):
    mix = texture_mix(texture, _points())
    assert mix.shape == (20_000,)
    assert float(mix.min()) == 0 and float(mix.max()) == 1
    assert 0.15 < float(mix.mean()) < 0.85


def test_noise_is_smooth_and_periodic():
    point = _points()
    value = value_noise(point)
    assert float((value_noise(point + 0.01) - value).abs().max()) < 0.06
    torch.testing.assert_close(value_noise(point + 32.0), value, atol=1e-4, rtol=0)
    assert float(value.std()) > 0.1


def test_parity_of_negative_numbers():
    assert parity(torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [1, 0, 1, 0, 1, 0]
