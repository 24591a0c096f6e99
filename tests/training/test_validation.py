"""Validation during training: the first grids, measured by hand."""

import pytest
import torch

from fourreal_kernels.data import GridDataset
from fourreal_kernels.training.validation import VALIDATION_GRIDS, validate
from tiny_models import tiny_model


class _Oracle(torch.nn.Module):
    """Answers with the true frames plus an error of 0.2, if it is asked as it should be."""

    def __init__(self, dataset, model):
        super().__init__()
        self.clean = [dataset.frames(index).float() / 127.5 - 1 for index in range(VALIDATION_GRIDS)]
        self.model = model
        self.asked = 0

    def forward(self, frames, given, sigma):
        prediction = self.model(frames, given, sigma)
        clean = self.clean[self.asked]
        self.asked += 1
        assert torch.equal(frames[0][given[0]], clean[given[0]]) and sigma.tolist() == [1.0]
        assert given[0].sum() == 5 and (frames[0] - clean)[~given[0]].std() > 0.8
        prediction.frames.copy_((clean + 0.2 * (clean < 0) - 0.2 * (clean >= 0))[None])
        return prediction


def test_measures_the_one_step_answer_and_the_mean_of_both_copies(grids):
    dataset = GridDataset(grids)
    model = tiny_model(views=3, times=3, height=16, width=16, matching=False)
    oracle = _Oracle(dataset, model)
    result = validate(oracle, dataset, "cpu")
    assert oracle.asked == VALIDATION_GRIDS
    error_in_unit_range = 0.1
    assert result["one_step"] == pytest.approx(-20 * torch.tensor(error_in_unit_range).log10().item(), abs=0.01)
    copies = []
    for index in range(VALIDATION_GRIDS):
        frames = dataset.frames(index).double() / 255
        mean = (frames[:, :1] + frames[:1]) / 2
        copies.append(-10 * (mean - frames)[1:, 1:].square().mean().log10())
    assert result["mean_of_copies"] == pytest.approx(sum(copies).item() / len(copies), abs=0.01)
