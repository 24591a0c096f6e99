"""Samplers on data whose exact flow is known: normal with standard deviation s.

There x0(x, sigma) = E[x0 | x] = (1 - sigma) s^2 x / var with var = (1 - sigma)^2 s^2 + sigma^2, and the flow takes
noise x at sigma = 1 to s x at sigma = 0.
"""

import pytest
import torch

from fourreal_kernels.model.sampler import sample, sigma_schedule

S = 0.4
SHAPE = (2, 2, 3, 3, 2, 2)
NOTHING_GIVEN = torch.zeros(2, 2, 3, dtype=torch.bool)


def _denoise(x, sigma):
    return (1 - sigma) * S**2 * x / ((1 - sigma) ** 2 * S**2 + sigma**2)


def _noise():
    return torch.randn(SHAPE, dtype=torch.float64)


def _error(sampler, steps):
    noise = _noise()
    result = sample(_denoise, noise, torch.zeros_like(noise), NOTHING_GIVEN, steps=steps, sampler=sampler)
    return (result - S * noise).abs().max().item()


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_converges_to_the_exact_flow_at_its_order(sampler, order):
    errors = [_error(sampler, steps) for steps in (64, 128, 256)]
    assert errors[-1] < (2e-2, 5e-5)[order - 1]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 0.85 * 2**order < coarse / fine < 1.15 * 2**order


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_given_frames_stay_clean_at_every_evaluation(sampler):
    given = torch.rand(SHAPE[:3]) < 0.4
    noise, clean = _noise(), torch.rand(SHAPE, dtype=torch.float64)
    seen = []

    def denoise(x, sigma):
        seen.append((x.clone(), sigma))
        return torch.zeros_like(x)

    result = sample(denoise, noise, clean, given, steps=3, sampler=sampler)
    assert len(seen) == (3 if sampler == "euler" else 5)
    for x, _ in seen:
        assert torch.equal(x[given], clean[given])
    assert torch.equal(result[given], clean[given])
    assert torch.equal(seen[0][0][~given], noise[~given]) and seen[0][1] == 1
    torch.testing.assert_close(result[~given], torch.zeros_like(result[~given]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_one_step_is_the_answer_from_pure_noise(sampler):
    noise, answer = _noise(), torch.rand(SHAPE, dtype=torch.float64)
    result = sample(lambda x, sigma: answer, noise, torch.zeros_like(noise), NOTHING_GIVEN, steps=1, sampler=sampler)
    torch.testing.assert_close(result, answer, atol=1e-14, rtol=1e-14)


def test_calls_back_after_every_step():
    steps = []
    noise = _noise()
    sample(_denoise, noise, noise, NOTHING_GIVEN, steps=4, on_step=lambda: steps.append(1))
    assert len(steps) == 4


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_schedule_runs_from_noise_to_clean(steps):
    sigmas = sigma_schedule(steps)
    assert sigmas[0] == 1 and sigmas[-1] == 0 and len(sigmas) == steps + 1
    gaps = [a - b for a, b in zip(sigmas, sigmas[1:], strict=False)]
    assert all(abs(gap - 1 / steps) < 1e-12 for gap in gaps)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "4", None])
def test_bad_steps_are_refused(steps):
    noise = _noise()
    with pytest.raises(ValueError, match="^steps: got .*, expected an integer of at least 1"):
        sample(_denoise, noise, noise, NOTHING_GIVEN, steps=steps)


def test_unknown_sampler_is_refused():
    noise = _noise()
    with pytest.raises(ValueError, match="^sampler: got 'rk4', expected one of euler, heun"):
        sample(_denoise, noise, noise, NOTHING_GIVEN, steps=2, sampler="rk4")
