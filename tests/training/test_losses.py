"""Losses of predictions that are right, wrong in one place, and wrong where it does not count."""

import pytest
import torch

from fourreal_kernels.data.dataset import GridDataset
from fourreal_kernels.model import cross_mask
from fourreal_kernels.model.conditioning import nearest_sources
from fourreal_kernels.model.heads import GridPrediction
from fourreal_kernels.model.matching import displace
from fourreal_kernels.training import Phase
from fourreal_kernels.training.batches import BatchSampler, TrainingBatch
from fourreal_kernels.training.losses import flow_loss, noisy_input, sharpness_loss, velocity_loss

GRID, HEIGHT, WIDTH = (2, 3, 4), 8, 10


def _batch(sigma=(0.5, 1.0), given=None, flow=True):
    given = cross_mask(*GRID[1:]).expand(GRID).clone() if given is None else given
    return TrainingBatch(
        frames=torch.rand(*GRID, 3, HEIGHT, WIDTH) * 2 - 1,
        given=given,
        sigma=torch.tensor(sigma),
        streams="both",
        view_index=torch.arange(GRID[1]),
        time_index=torch.arange(GRID[2]),
        flow=3 * torch.randn(GRID[0], 2, *GRID[1:], 2, HEIGHT, WIDTH) if flow else None,
        visible=torch.rand(GRID[0], 2, *GRID[1:], HEIGHT, WIDTH) < 0.7 if flow else None,
    )


def _perfect(batch):
    flows = () if batch.flow is None else batch.flow.clone().unbind(1)
    return GridPrediction(batch.frames.clone(), *flows)


def test_noisy_input_mixes_noise_in_where_nothing_is_given():
    batch = _batch(sigma=(0.25, 1.0), given=torch.rand(GRID) < 0.4)
    noise = torch.randn_like(batch.frames)
    noisy = noisy_input(batch, noise)
    assert torch.equal(noisy[batch.given], batch.frames[batch.given])
    mixed, pure = ~batch.given[0], ~batch.given[1]
    torch.testing.assert_close(noisy[0][mixed], 0.75 * batch.frames[0][mixed] + 0.25 * noise[0][mixed])
    assert torch.equal(noisy[1][pure], noise[1][pure])


@pytest.mark.parametrize("loss", [velocity_loss, flow_loss, sharpness_loss])
def test_a_perfect_prediction_has_no_loss(loss):
    batch = _batch(sigma=(0.5, 0.7))
    assert loss(_perfect(batch), batch) == 0


@pytest.mark.parametrize("loss", [velocity_loss, flow_loss, sharpness_loss])
def test_given_frames_do_not_count(loss):
    batch = _batch(sigma=(0.5, 0.7))
    prediction = _perfect(batch)
    for values in (prediction.frames, prediction.flow_same_view, prediction.flow_same_time):
        values[batch.given] += torch.randn_like(values[batch.given])
    assert loss(prediction, batch) == 0
    for values in (prediction.frames, prediction.flow_same_view, prediction.flow_same_time):
        values[~batch.given] += torch.randn_like(values[~batch.given])
    assert loss(prediction, batch) > 0


@pytest.mark.parametrize(("sigma", "weight"), [(1.0, 1.0), (0.5, 4.0), (0.2, 25.0), (0.05, 25.0), (0.0, 25.0)])
def test_velocity_loss_is_the_squared_error_over_sigma_squared(sigma, weight):
    """One of the 12 frames of both samples that are not given errs by 0.3 everywhere."""
    batch = _batch(sigma=(sigma, 1.0))
    prediction = _perfect(batch)
    prediction.frames[0, 2, 1] += 0.3
    assert velocity_loss(prediction, batch).item() == pytest.approx(weight * 0.3**2 / 12, rel=1e-4)


def test_velocity_loss_is_that_of_velocities():
    batch = _batch(sigma=(0.4, 0.9))
    prediction = GridPrediction(torch.randn_like(batch.frames))
    noisy = noisy_input(batch, torch.randn_like(batch.frames))
    sigma = batch.sigma[:, None, None, None, None, None]
    true, predicted = ((noisy - frames) / sigma for frames in (batch.frames, prediction.frames))
    expected = (true - predicted)[~batch.given].square().mean()
    torch.testing.assert_close(velocity_loss(prediction, batch), expected)


def test_nothing_to_learn_is_no_loss():
    batch = _batch(given=torch.ones(GRID, dtype=torch.bool))
    prediction = GridPrediction(torch.randn_like(batch.frames), *torch.randn_like(batch.flow).unbind(1))
    assert velocity_loss(prediction, batch) == flow_loss(prediction, batch) == sharpness_loss(prediction, batch) == 0


def test_flow_loss_is_huber_per_pixel_of_visible_matches():
    batch = _batch()
    prediction = _perfect(batch)
    batch.visible[1, 0, 2, 3, 4, 5], batch.visible[1, 0, 2, 3, 4, 6] = True, False
    prediction.flow_same_view[1, 2, 3, :, 4, 5] += torch.tensor([3.0, -0.5])
    prediction.flow_same_view[1, 2, 3, :, 4, 6] += 10
    counted = (batch.visible & ~batch.given[:, None, :, :, None, None]).sum()
    expected = ((3 - 0.5) + 0.5 * 0.5**2) / counted
    torch.testing.assert_close(flow_loss(prediction, batch), expected)


def test_flow_loss_pairs_each_source_with_its_own_flow():
    batch = _batch()
    swapped = GridPrediction(batch.frames, *batch.flow.flip(1).unbind(1))
    assert flow_loss(swapped, batch) > 1


def test_no_flow_is_no_flow_loss():
    batch = _batch()
    assert flow_loss(GridPrediction(batch.frames), batch) == 0
    assert flow_loss(_perfect(batch), _batch(flow=False)) == 0


def test_true_flows_fetch_the_missing_frames(grids):
    """In every drawn batch, mirrored ones too: displaced sources are close to the frames where the match is visible."""
    sampler = BatchSampler(GridDataset(grids), torch.Generator().manual_seed(0))
    errors = torch.zeros(3)
    for _ in range(6):
        batch = sampler.draw(Phase("grids", views=3, times=2, batch=2))
        sources = nearest_sources(batch.frames, batch.given)
        for which, source in enumerate((sources.same_view, sources.same_time)):
            visible = (batch.visible[:, which] & ~batch.given[..., None, None])[:, :, :, None].expand_as(source)
            right = batch.flow[:, which].flatten(0, 2)
            mirrored = right * torch.tensor([-1.0, 1.0])[:, None, None]
            for i, flow in enumerate((right, 0 * right, mirrored)):
                moved = displace(source.flatten(0, 2), flow).unflatten(0, source.shape[:3])
                errors[i] += (moved - batch.frames)[visible].square().mean()
    assert errors[0] < 0.6 * errors[1] and errors[0] < 0.5 * errors[2], errors


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_sharpness_loss_sees_blur_and_noise(sigma):
    smooth = torch.nn.functional.avg_pool2d
    batch = _batch(sigma=(sigma, sigma))
    blurred = smooth(batch.frames.flatten(0, 2), 3, 1, 1).unflatten(0, GRID)
    noisy = batch.frames + 0.3 * torch.randn_like(batch.frames)
    shifted = batch.frames + 0.2
    for frames in (blurred, noisy):
        assert sharpness_loss(GridPrediction(frames), batch) > 0.1
    assert sharpness_loss(GridPrediction(shifted), batch) < 1e-4, "brightness is not sharpness"


@pytest.mark.parametrize("loss", [velocity_loss, flow_loss, sharpness_loss])
def test_losses_have_finite_gradients(loss):
    batch = _batch(sigma=(0.3, 0.6))
    values = [torch.randn_like(batch.frames), *torch.randn_like(batch.flow).unbind(1)]
    for value in values:
        value.requires_grad_()
    loss(GridPrediction(*values), batch).backward()
    gradients = [value.grad for value in values if value.grad is not None]
    assert gradients and all(gradient.isfinite().all() and gradient.any() for gradient in gradients)
