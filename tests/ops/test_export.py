"""``torch.export`` of a module made of the operators."""

from __future__ import annotations

import torch

from op_numerics import bitwise_equal
from operator_layer import Layer, streams


def test_export_with_a_dynamic_batch():
    layer = Layer()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, streams(2), dynamic_shapes=({0: batch}, {0: batch}))
    called = {str(node.target) for node in program.graph.nodes if "fourreal_kernels" in str(node.target)}
    assert {f"fourreal_kernels.{op}.default" for op in (
        "axis_attention", "two_stream_attention", "sync_exchange", "qk_norm_rope")} <= called
    for size in (2, 3, 7):
        inputs = streams(size)
        for actual, wanted in zip(program.module()(*inputs), layer(*inputs), strict=True):
            assert bitwise_equal(actual, wanted)


def test_exported_program_survives_saving(tmp_path):
    layer, inputs = Layer(), streams(2)
    torch.export.save(torch.export.export(layer, inputs), tmp_path / "layer.pt2")
    loaded = torch.export.load(tmp_path / "layer.pt2").module()
    assert all(bitwise_equal(a, b) for a, b in zip(loaded(*inputs), layer(*inputs), strict=True))
