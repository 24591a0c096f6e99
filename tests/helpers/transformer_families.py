"""Every video transformer of diffusers that takes grids, and every mode, as parameters of tests."""

from __future__ import annotations

import pytest
from torch import nn

from fourreal_kernels.integrations.diffusers import apply_to, sync_layers
from joint_models import CogVideoX, CogVideoX2B, HunyuanVideo
from tiny_models import perturb
from video_models import LTX, Family, Wan

JOINT = {"CogVideoX": CogVideoX(), "CogVideoX-2B": CogVideoX2B(), "HunyuanVideo": HunyuanVideo()}
FAMILIES = {"Wan": Wan(), "LTX": LTX(), **JOINT}

families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
joint_families = pytest.mark.parametrize("family", JOINT.values(), ids=JOINT)
modes = pytest.mark.parametrize("mode", ["time", "sequential", "fused", "two_stream"])


def random_sync_model(family: Family, **options) -> nn.Module:
    """A model in mode ``"two_stream"`` with random synchronisation layers."""
    model = family.model()
    apply_to(model, "two_stream", **options)
    perturb(sync_layers(model).parameters())
    return model
