"""Changed models under torch.compile."""

from __future__ import annotations

import pytest
import torch

from fourreal_kernels.integrations.diffusers import apply_to, sync_layers
from tiny_models import perturb
from transformer_families import FAMILIES
from video_models import conditions, grid_latents, relative_error

# The aot_eager backend traces forward and operators as inductor does, without its code generation; eager traces the
# model alone.
IN_EVERY_RUN = [("Wan", "two_stream", "aot_eager"), ("HunyuanVideo", "fused", "eager")]
ALL = [(name, mode, "aot_eager") for name in FAMILIES for mode in ("time", "sequential", "fused", "two_stream")]


@pytest.mark.parametrize(
    "name, mode, backend",
    IN_EVERY_RUN + [pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in IN_EVERY_RUN],
)
def test_compiled_is_eager(name, mode, backend):
    """In one graph, but for HunyuanVideo: the lengths of its texts are read from their mask, which ends a graph."""
    family, given, grid = FAMILIES[name], conditions(), grid_latents()
    model = family.model()
    apply_to(model, mode)
    if mode == "two_stream":
        perturb(sync_layers(model).parameters())
    with torch.no_grad():
        expected = family.grid(model, grid, *given)
        compiled = torch.compile(model, backend=backend, fullgraph=name != "HunyuanVideo")
        assert relative_error(family.grid(compiled, grid, *given), expected) <= 1e-5
