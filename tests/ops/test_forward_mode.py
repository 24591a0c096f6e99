"""Forward-mode gradients, which the operators do not have, are refused rather than lost."""

import pytest
import torch
from torch.autograd import forward_ad

from fourreal_kernels import axis_attention, qk_norm_rope, sync_exchange, sync_exchange_norm, two_stream_attention


def _grid(*last):
    return torch.randn(1, 2, 2, 3, *last)


def _attention(x):
    return axis_attention(x, x, x, "tn")


def _attention_out(x):
    return axis_attention(x, x, x, "tn", out=torch.empty_like(x))


def _two_streams(x):
    return two_stream_attention((x, x, x), (x, x, x))


def _norm_rope(x):
    return qk_norm_rope(x, x, torch.ones(16), torch.ones(16), None, None)


CALLS = {"axis_attention": _attention, "out": _attention_out, "two_streams": _two_streams, "norm_rope": _norm_rope}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_tangents_are_refused(call):
    x = _grid(2, 16)
    with forward_ad.dual_level():
        call(x)
        with pytest.raises(NotImplementedError, match="forward-mode tangent.*reverse mode"):
            call(forward_ad.make_dual(x, torch.ones_like(x)))


@pytest.mark.parametrize("fused", [False, True])
def test_tangents_of_the_exchange_are_refused(fused):
    view, time, weight = _grid(8), _grid(8), torch.rand(2, 8)

    def exchange(view):
        if not fused:
            return sync_exchange(view, time, weight, kind="hard")
        ones = torch.ones(1, 16)
        return sync_exchange_norm(
            view, time, view, time, weight, kind="hard", branch_gate=ones, norm_scale=ones, norm_shift=ones
        )

    with forward_ad.dual_level():
        exchange(view)
        with pytest.raises(NotImplementedError, match="forward-mode tangent"):
            exchange(forward_ad.make_dual(view, torch.ones_like(view)))
