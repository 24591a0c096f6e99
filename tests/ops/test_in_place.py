"""The in-place forms equal the functional forms bit for bit, on every layout, and write nothing else."""

from __future__ import annotations

import pytest
import torch

from exchange_formula import (
    FORMS,
    KINDS,
    exchange_arguments,
    exchange_norm_arguments,
    norm_option_sets,
    option_name,
    option_sets,
)
from fourreal_kernels import (
    qk_norm_rope,
    qk_norm_rope_,
    sync_exchange,
    sync_exchange_,
    sync_exchange_norm,
    sync_exchange_norm_,
)
from fourreal_kernels.ops.memory import overlaps, overlaps_itself
from op_backends import backends, can_run
from op_layouts import LAYOUTS
from op_numerics import DTYPES, bitwise_equal, dtype_name, poisoned
from rope_formula import norm_rope_arguments

EXCHANGE_BACKENDS = backends("sync_exchange_")
NORM_BACKENDS = backends("sync_exchange_norm_")
ROPE_BACKENDS = backends("qk_norm_rope_")
SHAPE = (2, 2, 3, 5, 2, 8)


def check_exchange(backend, view, time, parameters, keywords):
    if not can_run("sync_exchange", backend, view, time, *parameters, **keywords):
        return
    expected = sync_exchange(view, time, *parameters, **keywords, backend=backend)
    if not can_run("sync_exchange_", backend, view.clone(), time.clone(), *parameters, **keywords):
        return
    assert sync_exchange_(view, time, *parameters, **keywords, backend=backend) is None
    assert bitwise_equal(view, expected[0]) and bitwise_equal(time, expected[1])


def check_exchange_norm(backend, streams, parameters, keywords):
    if not can_run("sync_exchange_norm", backend, *streams, *parameters, **keywords):
        return
    expected = sync_exchange_norm(*streams, *parameters, **keywords, backend=backend)
    assert sync_exchange_norm_(*streams, *parameters, **keywords, backend=backend) is None
    assert all(bitwise_equal(x, wanted) for x, wanted in zip(streams, expected, strict=True))


def check_rope(backend, q, k, rest):
    if not can_run("qk_norm_rope", backend, q, k, *rest):
        return
    expected = qk_norm_rope(q, k, *rest, backend=backend)
    if not can_run("qk_norm_rope_", backend, q.clone(), k.clone(), *rest):
        return
    assert qk_norm_rope_(q, k, *rest, backend=backend) is None
    assert bitwise_equal(q, expected[0]) and bitwise_equal(k, expected[1])


@pytest.mark.parametrize("options", list(option_sets()), ids=option_name)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", EXCHANGE_BACKENDS)
def test_exchange_with_every_option(backend, kind, form, dtype, options):
    (view, time, *parameters), keywords = exchange_arguments((3, 2, 3, 5, 17), kind, form, options, dtype)
    check_exchange(backend, view, time, parameters, keywords)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", EXCHANGE_BACKENDS)
def test_exchange_on_every_layout(backend, kind, form, layout):
    (view, time, *parameters), keywords = exchange_arguments(SHAPE, kind, form)
    check_exchange(backend, LAYOUTS[layout](view), LAYOUTS["time_first"](time), parameters, keywords)


@pytest.mark.parametrize("options", list(norm_option_sets()), ids=option_name)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", NORM_BACKENDS)
def test_exchange_norm_with_every_option(backend, kind, form, dtype, options):
    arguments, keywords = exchange_norm_arguments((3, 2, 3, 5, 17), kind, form, options, dtype)
    check_exchange_norm(backend, arguments[:4], arguments[4:], keywords)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", NORM_BACKENDS)
def test_exchange_norm_on_every_layout(backend, kind, form, layout):
    arguments, keywords = exchange_norm_arguments(SHAPE, kind, form)
    layouts = (layout, "time_first", "packed", layout)
    streams = [LAYOUTS[name](x) for x, name in zip(arguments[:4], layouts, strict=True)]
    check_exchange_norm(backend, streams, arguments[4:], keywords)


@pytest.mark.parametrize("backend", NORM_BACKENDS)
def test_exchange_norm_counts_as_a_mutation_of_its_four_buffers(backend):
    arguments, keywords = exchange_norm_arguments((2, 2, 3, 5, 8), "soft", "per channel")
    versions = [x._version for x in arguments[:4]]
    sync_exchange_norm_(*arguments, **keywords, backend=backend)
    assert all(x._version > before for x, before in zip(arguments[:4], versions, strict=True))


@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("backend", ROPE_BACKENDS)
def test_rope_on_every_layout(backend, dtype, layout, parts):
    q, k, *rest = norm_rope_arguments(SHAPE, dtype, norm=parts[0], rope=parts[1], angle_shape=(3, 1, 4))
    check_rope(backend, LAYOUTS[layout](q), LAYOUTS["sliced"](k), rest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", EXCHANGE_BACKENDS)
def test_exchange_writes_its_elements_and_no_others(backend, kind):
    (view, time, *parameters), keywords = exchange_arguments((2, 2, 3, 5, 8), kind, "per channel")
    targets = poisoned(view.shape, view.dtype), poisoned(view.shape, view.dtype, (0, 2, 1, 3, 4))
    for target, x in zip(targets, (view, time), strict=True):
        target.destination.copy_(x)
    check_exchange(backend, *(target.destination for target in targets), parameters, keywords)
    for target in targets:
        target.assert_written_exactly()


@pytest.mark.parametrize("backend", ROPE_BACKENDS)
def test_rope_writes_its_elements_and_no_others(backend):
    q, k, *rest = norm_rope_arguments(SHAPE)
    targets = poisoned(q.shape, q.dtype), poisoned(q.shape, q.dtype, (0, 4, 1, 2, 3, 5))
    for target, x in zip(targets, (q, k), strict=True):
        target.destination.copy_(x)
    check_rope(backend, *(target.destination for target in targets), rest)
    for target in targets:
        target.assert_written_exactly()


INTERLEAVED = {
    "halves of the channels": lambda: torch.randn(2, 2, 3, 5, 16).split(8, dim=-1),
    "even and odd tokens": lambda: torch.randn(2, 2, 3, 5, 2, 8).unbind(4),
    "even and odd views": lambda: torch.randn(2, 2, 2, 3, 5, 8).unbind(2),
    "halves of the tokens": lambda: torch.randn(2, 2, 3, 10, 8).split(5, dim=3),
    "two slots, times first": lambda: [x.transpose(1, 2) for x in torch.randn(2, 3, 2, 2, 5, 8).unbind(3)],
    "halves of the batch": lambda: torch.randn(4, 2, 3, 5, 8).split(2),
}
"""Two tensors ``(2, 2, 3, 5, 8)`` that share a buffer and no element."""


@pytest.mark.parametrize("pair", INTERLEAVED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", EXCHANGE_BACKENDS)
def test_exchange_of_interleaved_slices_of_one_buffer(backend, kind, pair):
    view, time = INTERLEAVED[pair]()
    _, _, weight, bias = exchange_arguments((2, 2, 3, 5, 8), kind, "per channel")[0]
    assert view.untyped_storage().data_ptr() == time.untyped_storage().data_ptr()
    check_exchange(backend, view, time, (weight, bias), {"kind": kind})


@pytest.mark.parametrize("slots", [(0, 1), (1, 0), (2, 0)], ids=str)
@pytest.mark.parametrize("backend", ROPE_BACKENDS)
def test_rope_of_slots_of_a_packed_projection(backend, slots):
    packed = torch.randn(2, 2, 3, 5, 3, 2, 8)
    before = packed.clone()
    q, k = packed[:, :, :, :, slots[0]], packed[:, :, :, :, slots[1]]
    check_rope(backend, q, k, norm_rope_arguments(SHAPE)[2:])
    untouched = 3 - sum(slots)
    assert bitwise_equal(packed[:, :, :, :, untouched], before[:, :, :, :, untouched])


@pytest.mark.parametrize("backend", EXCHANGE_BACKENDS)
def test_exchange_counts_as_a_mutation_of_both_buffers(backend):
    """Autograd must notice that a tensor it saved was overwritten."""
    leaf = torch.randn(2, 3, 4, requires_grad=True)
    view, time, weight = leaf * 1, torch.randn(2, 3, 4), torch.randn(2, 4)
    if not can_run("sync_exchange_", backend, view.detach().clone(), time.clone(), weight, kind="hard"):
        return
    result = (view * view).sum()
    versions = view._version, time._version
    with torch.no_grad():
        sync_exchange_(view, time, weight, kind="hard", backend=backend)
    assert view._version > versions[0] and time._version > versions[1]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


@pytest.mark.parametrize("backend", ROPE_BACKENDS)
def test_rope_counts_as_a_mutation_of_both_buffers(backend):
    q, k, *rest = norm_rope_arguments(SHAPE)
    versions = q._version, k._version
    qk_norm_rope_(q, k, *rest, backend=backend)
    assert q._version > versions[0] and k._version > versions[1]


def test_tensors_that_require_grad_are_accepted_under_no_grad():
    view, time, weight = (torch.randn(*shape, requires_grad=True) for shape in ((2, 3, 4), (2, 3, 4), (2, 4)))
    q, k, q_weight, k_weight, cos, sin = norm_rope_arguments(SHAPE)
    for x in (q, k, q_weight, k_weight):
        x.requires_grad_()
    with torch.no_grad():
        expected = sync_exchange(view, time, weight, kind="hard"), qk_norm_rope(q, k, q_weight, k_weight, cos, sin)
        sync_exchange_(view, time, weight, kind="hard")
        qk_norm_rope_(q, k, q_weight, k_weight, cos, sin)
    for actual, wanted in zip((view, time, q, k), (*expected[0], *expected[1]), strict=True):
        assert bitwise_equal(actual.detach(), wanted)


def test_overlap_is_exact_for_slices_of_large_buffers():
    """Grids of full size are told apart quickly: packed projections, interleaved frames, shifted windows."""
    packed = torch.empty(2, 8, 8, 240, 3, 8, 64, dtype=torch.bfloat16)
    q, k, v = packed.unbind(4)
    assert not overlaps(q, k) and not overlaps(k.transpose(1, 2), v) and overlaps(packed, k) and overlaps(q, q)
    frames = torch.empty(3, 14, 10, 389, 11, 40)
    assert not overlaps(frames[:, ::2], frames[:, 1::2]) and not overlaps(frames[:, :, ::2], frames[:, :, 1::2])
    assert overlaps(frames[:, :, :, 1:], frames[:, :, :, :-1]) and overlaps(frames[1:], frames[:-1])
    assert overlaps(frames[:, ::2], frames[:, ::3]) and not overlaps(frames, torch.empty_like(frames))


def test_overlap_of_one_tensor_moved_within_a_buffer_equals_a_search():
    """Every distance of a moved copy: into the gaps between blocks, across a block's end, by a whole step."""
    storage = torch.zeros(400)
    found = set()
    for strides in ((100, 20, 1), (60, 13, 1), (64, 8, 2), (96, 12, 4)):
        a = storage.as_strided((3, 4, 5), strides)
        for distance in range(1, 90):
            b = storage.as_strided((3, 4, 5), strides, distance)
            expected = bool(set(_elements(a)) & set(_elements(b)))
            assert overlaps(a, b) == overlaps(b, a) == expected, (strides, distance)
            found.add(expected)
    assert found == {True, False}


def _elements(x):
    return torch.arange(400).as_strided(x.shape, x.stride(), x.storage_offset()).flatten().tolist()


@pytest.mark.parametrize("x, expected", [
    (torch.empty(2, 3, 4), False),
    (torch.empty(2, 3, 4).permute(2, 0, 1), False),
    (torch.empty(4, 6, 8)[1:, ::2, :3], False),
    (torch.empty(2, 1, 4).expand(2, 3, 4), True),
    (torch.empty(2, 1, 4).expand(2, 1, 4), False),
    (torch.empty(10).as_strided((4, 4), (1, 1)), True),
    (torch.empty(10).unfold(0, 4, 2), True),
    (torch.empty(1).expand(1, 1), False),
], ids=["dense", "permuted", "sliced", "expanded", "expanded by 1", "sliding", "unfolded", "one element"])
def test_self_overlap(x, expected):
    assert overlaps_itself(x) is expected
