"""The MLP a few frames at a time is the MLP of all tokens."""

import pytest
import torch

from fourreal_kernels.model import blocks
from tiny_models import model_inputs, random_model


@pytest.mark.parametrize("tokens", [1, 12, 13, 10_000])
@pytest.mark.parametrize("mode", ["two_stream_soft", "fused"])
def test_parts_of_any_size_give_the_same_prediction(tokens, mode, monkeypatch):
    """Less than a frame, two frames, two and a bit, and all of them: 6 tokens in each of 4 timesteps."""
    model = random_model(mode=mode).double()
    inputs = model_inputs(model, batch=2)
    expected = model(*inputs).frames.detach()
    monkeypatch.setattr(blocks, "_PART_TOKENS", tokens)
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs).frames, expected, atol=1e-9, rtol=1e-9)
