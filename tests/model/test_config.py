"""GridConfig: round trip through JSON, and the names of settings that are out of range."""

import json

import pytest

from fourreal_kernels.model import GridConfig, GridTransformer
from tiny_models import tiny_config


def test_round_trip_through_json():
    config = tiny_config(mode="fused", head="direct", sync_per_channel=True, source_input=False)
    assert GridConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_missing_settings_take_their_defaults():
    assert GridConfig.from_dict({"dim": 128}) == GridConfig(dim=128)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "two_stream"), ("head", "colour"), ("views", 0), ("times", -1), ("dim", 12.0), ("depth", True),
        ("heads", 5), ("heads", 12), ("patch", 3), ("patch", 8), ("mlp_ratio", 0), ("mlp_ratio", float("nan")),
        ("mlp_ratio", "4"), ("source_input", 1), ("sync_per_channel", "no"), ("sync_cond_dim", 0),
        ("head_features", 0), ("matching", None),
    ],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}: .*got .*"):
        tiny_config(**{name: value})


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="^config: got unknown settings depths, width2"):
        GridConfig.from_dict({"width2": 1, "depths": 2})


@pytest.mark.parametrize("heads", [6, 3])
def test_heads_too_narrow_for_the_rotary_embedding_are_named(heads):
    with pytest.raises(ValueError, match="^head_dim: got [24], expected"):
        GridTransformer(tiny_config(heads=heads))


def test_matching_needs_sides_that_are_multiples_of_four():
    with pytest.raises(ValueError, match="^matching: "):
        tiny_config(height=10, width=6, patch=2)
    assert tiny_config(height=10, width=6, patch=2, matching=False).token_width == 3
