"""Every refused call names its argument in the message and writes nothing."""

from __future__ import annotations

import re

import pytest
import torch

import fourreal_kernels
from attention_cases import random_qkv
from op_numerics import bitwise_equal
from refused_calls import BASES, table

CASES = {f"{op}: {what}": (op, change, error, name, text) for op, what, change, error, name, text in table()}


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [x for item in value for x in tensors_of(item)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize("case", CASES)
def test_refused_calls_name_their_argument_and_write_nothing(case):
    op, change, error, name, text = CASES[case]
    arguments = change(BASES[op]())
    tensors = [x for value in arguments.values() for x in tensors_of(value) if x.device.type == "cpu"]
    before = [x.detach().clone() for x in tensors]
    with pytest.raises(error) as caught:
        getattr(fourreal_kernels, op)(**arguments)
    assert caught.type is error
    message = str(caught.value)
    assert message.startswith(f"{name}: "), message
    assert text in message, message
    assert all(bitwise_equal(x.detach(), copy) for x, copy in zip(tensors, before, strict=True))


@pytest.mark.parametrize("op", BASES)
def test_the_arguments_that_the_table_changes_are_valid(op):
    """Otherwise the table would test nothing."""
    getattr(fourreal_kernels, op)(**BASES[op]())


def test_the_table_has_no_two_cases_of_one_name():
    assert len(list(table())) == len(CASES)


@pytest.mark.parametrize("call", ["axis_attention axes", "sync_exchange kind", "qk_norm_rope cos"])
def test_required_arguments(call):
    op, missing = call.split()
    arguments = BASES[op]()
    del arguments[missing]
    with pytest.raises(TypeError, match=re.escape(f"'{missing}'")):
        getattr(fourreal_kernels, op)(**arguments)


def test_the_gradient_of_a_gradient_is_not_silently_wrong():
    """Attention is differentiable once: asking for more raises, or autograd warns that it cannot know."""
    q, k, v = (x.requires_grad_() for x in random_qkv(1, 2, 2, 3, 1, 4, dtype=torch.float64))
    out = fourreal_kernels.axis_attention(q, k, v, "vn", backend="sdpa")
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        (gradient,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        with pytest.raises(RuntimeError, match="not implemented"):
            torch.autograd.grad(gradient.sum(), q)
