"""What a repeated call leaves out: checks of layouts that passed, the exact overlap check, torch's dispatcher."""

from __future__ import annotations

import random
from threading import Thread

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fourreal_kernels import native, qk_norm_rope, qk_norm_rope_, sync_exchange_
from fourreal_kernels.ops import once
from fourreal_kernels.ops.memory import overlaps, overlaps_itself
from fourreal_kernels.ops.once import once_per_layout

needs_library = pytest.mark.skipif(native.cpu_library() is None, reason=f"_cpu {native.why_missing('cpu')}")


class Seen(list):
    """Counts the calls that reach a check, which refuses tensors of more than two dims."""

    def __call__(self, x: Tensor, option: object) -> None:
        self.append(option)
        if x.ndim > 2:
            raise ValueError("x: too many dims")


@pytest.fixture(params=["compiled", "python"])
def seen(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(once.native, "cpu_library", lambda: None)
    elif native.cpu_library() is None:
        pytest.skip(f"_cpu {native.why_missing('cpu')}")
    return Seen()


def test_a_layout_that_passed_is_not_checked_again(seen):
    check = once_per_layout(seen.__call__)
    for _ in range(3):
        check(torch.zeros(2, 3), "a")
    assert seen == ["a"]


DIFFERENT = {
    "shape": torch.zeros(3, 2), "strides": torch.zeros(3, 2).t(), "dtype": torch.zeros(2, 3, dtype=torch.float64),
    "dims": torch.zeros(6), "gradient": torch.zeros(2, 3, requires_grad=True),
    "device": torch.zeros(2, 3, device="meta"),
}


@pytest.mark.parametrize("x", DIFFERENT.values(), ids=DIFFERENT)
def test_another_layout_is_checked(seen, x):
    check = once_per_layout(seen.__call__)
    check(torch.zeros(2, 3), "a")
    check(x, "a")
    assert len(seen) == 2


def test_values_of_other_types_are_checked(seen):
    check = once_per_layout(seen.__call__)
    options = [1, True, 1.0, "1", None, 0.0, False, "", "ab"]
    for option in options * 2:
        check(torch.zeros(2, 3), option)
    assert [(type(x), x) for x in seen] == [(type(x), x) for x in options]


def test_the_mode_of_grad_is_part_of_a_layout(seen):
    check = once_per_layout(seen.__call__)
    check(torch.zeros(2, 3), "a")
    with torch.no_grad():
        check(torch.zeros(2, 3), "a")
    assert len(seen) == 2


def test_a_refused_layout_is_refused_every_time(seen):
    check = once_per_layout(seen.__call__)
    for _ in range(2):
        with pytest.raises(ValueError, match="too many dims"):
            check(torch.zeros(1, 2, 3), "a")
    assert len(seen) == 2


def test_what_cannot_be_remembered_is_checked_every_time(seen):
    check = once_per_layout(seen.__call__)
    for _ in range(2):
        check(torch.zeros(2, 3), ["unhashable"])
    assert len(seen) == 2


def test_only_so_many_layouts_are_remembered(seen):
    check = once_per_layout(seen.__call__)
    for size in [*range(1, once._MOST_LAYOUTS + 2), 1]:
        check(torch.zeros(size), "a")
    assert len(seen) == once._MOST_LAYOUTS + 2


def slice_of(buffer: Tensor, draw: random.Random) -> Tensor:
    begin, end = sorted(draw.sample(range(buffer.numel() + 1), 2))
    x = buffer[begin:end]
    if draw.random() < 0.4 and x.numel() >= 4:
        x = x[: x.numel() // 4 * 4].view(-1, 4)[:, draw.randrange(4) :][:, :: draw.choice((1, 2))]
    return x.expand(2, *x.shape) if draw.random() < 0.1 else x


@needs_library
def test_slots_of_a_packed_projection_are_apart():
    packed = torch.zeros(2, 3, 3, 4)
    q, k, v = packed.unbind(1)
    assert native.cpu_library().surely_apart((q, k, v), 2)
    assert native.cpu_library().surely_apart((torch.zeros(2, 3, 4), packed, q), 1)
    assert not native.cpu_library().surely_apart((q, packed), 1)


@needs_library
def test_ranges_said_to_be_apart_are_apart():
    draw, said = random.Random(0), 0
    for _ in range(2000):
        buffer = torch.zeros(80)
        tensors = tuple(slice_of(buffer[:40], draw) for _ in range(3))
        if draw.random() < 0.5:
            moved = buffer.as_strided(tensors[0].shape, tensors[0].stride(), draw.randrange(40))
            tensors = (tensors[0], moved, moved)
        if native.cpu_library().surely_apart((tensors[0], None, *tensors[1:]), 1):
            said += 1
            assert not overlaps_itself(tensors[0]) and not any(overlaps(tensors[0], x) for x in tensors[1:])
    assert said > 100


def rope_arguments() -> tuple[Tensor, ...]:
    q, k = torch.randn(1, 2, 2, 3, 2, 8), torch.randn(1, 2, 2, 3, 2, 8)
    return q, k, torch.rand(8), torch.rand(8), torch.rand(1, 2, 2, 3, 4), torch.rand(1, 2, 2, 3, 4)


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_the_operators():
    with Operators() as mode:
        qk_norm_rope_(*rope_arguments())
    assert "fourreal_kernels.qk_norm_rope_.default" in mode.names


def test_a_profile_shows_the_operators():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        qk_norm_rope_(*rope_arguments())
    assert "fourreal_kernels::qk_norm_rope_" in {event.key for event in profile.key_averages()}


def test_a_gradient_flows_through_parameters():
    q, k, *rest = rope_arguments()
    rest[0] = nn.Parameter(rest[0])
    results = qk_norm_rope(q, k, *rest)
    assert all(x.requires_grad for x in results)
    with torch.no_grad():
        assert not any(x.requires_grad for x in qk_norm_rope(q, k, *rest))


def test_calls_from_several_threads_agree():
    view, time, weight = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.randn(2, 8)
    streams = [(view[:, :2].clone(), time[:, :2].clone()) if i % 2 else (view.clone(), time.clone()) for i in range(8)]

    def work(index: int) -> None:
        for _ in range(20):
            sync_exchange_(*streams[index], weight / weight.abs().sum(0), kind="hard")

    threads = [Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a[0], b[0]) for a, b in zip(streams[2:], streams[:-2], strict=True))


class Subclass(Tensor):
    """Not exactly a torch.Tensor: read through its attributes, as every tensor of an older torch is."""


FORMS_OF_ARGUMENTS = {
    "tensor": lambda x: x,
    "parameter": lambda x: nn.Parameter(x, requires_grad=False),
    "subclass": lambda x: x.as_subclass(Subclass),
    "numbers": lambda x: (x.data_ptr(), x.stride()),
}


@needs_library
@pytest.mark.parametrize("form", FORMS_OF_ARGUMENTS.values(), ids=FORMS_OF_ARGUMENTS)
def test_kernels_take_tensors_and_numbers(form):
    q, k, *rest = rope_arguments()
    q = q.transpose(1, 2)
    expected = qk_norm_rope(q, k, *rest, eps=1e-6)
    outs = torch.empty_like(q), torch.empty_like(k)
    parameters = list(rest)
    if form is FORMS_OF_ARGUMENTS["numbers"]:
        parameters = [x.data_ptr() for x in rest[:2]] + [(x.data_ptr(), x.shape, x.stride()) for x in rest[2:]]
    native.cpu_library().qk_norm_rope(*map(form, (q, k, *outs)), "float32", q.shape, *parameters, 1e-6)
    assert all(torch.equal(x, wanted) for x, wanted in zip(outs, expected, strict=True))
