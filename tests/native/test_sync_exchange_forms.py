"""The compiled CPU soft, fused, dense and backward forms, called directly: every instruction set, bits, guards."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from exchange_cases import DTYPES, LAYOUTS, WRITABLE_LAYOUTS, parameter_dtype
from exchange_formula import KINDS, exchange_norm_arguments, plain_exchange, plain_exchange_norm
from fourreal_kernels import native
from op_numerics import assert_close_as_pytorch

library = native.cpu_library()
pytestmark = pytest.mark.skipif(library is None, reason=native.why_missing("cpu"))

INSTRUCTION_SETS = library.usable_instruction_sets() if library else []
SIZES = (3, 2, 2, 65)
CHANNELS = (5, 17, 100)


@pytest.fixture(autouse=True)
def threads():
    """One thread unless a test calls this for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


def pair(x):
    return x.data_ptr(), x.stride()


def dtype_name(x):
    return str(x.dtype).removeprefix("torch.")


class Case:
    """Streams and branches in ``dtype``, parameters in the accumulation dtype as the kernels read them."""

    def __init__(self, kind, channels, dtype):
        (*streams, weight, bias), keywords = exchange_norm_arguments((*SIZES, channels), kind, "per channel")
        self.kind = kind
        self.streams = [x.to(dtype) for x in streams]
        names = ("input_scale", "gate", "branch_gate", "norm_scale", "norm_shift")
        parameters = {"weight": weight, "bias": bias, **{name: keywords[name] for name in names}}
        self.parameters = {name: x.to(parameter_dtype(dtype)).contiguous() for name, x in parameters.items()}

    def addresses(self, *names):
        return [self.parameters[name].data_ptr() for name in names]

    def run(self, streams, outs, norms=None, **options):
        norm = None
        if norms is not None:
            of_norm = self.addresses("branch_gate", "norm_scale", "norm_shift")
            norm = (*map(pair, streams[2:]), *map(pair, norms), *of_norm, 1e-6)
        addresses = self.addresses("weight", "bias", "input_scale", "gate")
        library.sync_exchange_channel(self.kind, dtype_name(streams[0]), streams[0].shape, *map(pair, streams[:2]),
                                      *map(pair, outs), *addresses, norm, **options)

    def formula(self, dtype, fused):
        tensors = [x.to(dtype) for x in self.streams]
        p = {name: x.to(dtype) for name, x in self.parameters.items()}
        keywords = {"kind": self.kind, "input_scale": p["input_scale"], "gate": p["gate"]}
        if not fused:
            return plain_exchange(*tensors[:2], p["weight"], p["bias"], **keywords)
        of_norm = {name: p[name] for name in ("branch_gate", "norm_scale", "norm_shift")}
        return plain_exchange_norm(*tensors, p["weight"], p["bias"], **keywords, **of_norm)


def results(case, fused, **options):
    outs = [torch.full_like(case.streams[0], float("nan")) for _ in range(4 if fused else 2)]
    case.run(case.streams, outs[:2], outs[2:] or None, **options)
    return outs


# A norm of one channel is its shift, whose formula has no error to compare with: see the operator's tests.
@pytest.mark.parametrize("fused, channels", [(False, 1), *product((False, True), CHANNELS)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_instruction_set_matches_the_formula(kind, dtype, channels, fused):
    """Without the norm, bit for bit among instruction sets; the norm's sums depend on their width."""
    case = Case(kind, channels, DTYPES[dtype])
    expected, plain = case.formula(torch.float64, fused), case.formula(DTYPES[dtype], fused)
    first = None
    for name in INSTRUCTION_SETS:
        outs = results(case, fused, instruction_set=name)
        for actual, wanted, eager in zip(outs, expected, plain, strict=True):
            assert_close_as_pytorch(actual, wanted, eager)
        first = first or outs
        assert fused or all(torch.equal(x, y) for x, y in zip(outs, first, strict=True))


@pytest.mark.parametrize("fused", [False, True], ids=["exchange", "fused"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_layouts_threads_and_places_do_not_change_bits(kind, dtype, fused, threads):
    """Functional and in place, on every mix of layouts, with one thread and with two, between guards."""
    case = Case(kind, 100, DTYPES[dtype])
    expected = results(case, fused)
    for count, (first, second) in product((1, 2), zip(LAYOUTS, reversed(WRITABLE_LAYOUTS), strict=False)):
        threads(count)
        names = (second, first if first in WRITABLE_LAYOUTS else "sliced", second, "permuted")
        regions = [LAYOUTS[name](tuple(x.shape), x.dtype, "cpu") for name, x in zip(names, case.streams, strict=True)]
        streams = [region.tensor for region in regions]
        for region, x in zip(regions, case.streams, strict=True):
            region.tensor.copy_(x)
        case.run(streams, streams[:2], streams[2:] if fused else None)
        assert all(torch.equal(x, y) for x, y in zip(streams, expected, strict=False))
        assert all(region.outside_is_untouched() for region in regions)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_backward_has_the_same_bits_for_every_layout_and_thread_count(kind, dtype, threads):
    case = Case(kind, 100, DTYPES[dtype])
    grads, inputs = case.streams[:2], case.streams[2:]
    outputs = 1 if kind == "hard" else 2
    found = []
    for count, layout in product((1, 2), WRITABLE_LAYOUTS):
        threads(count)
        regions = [LAYOUTS[layout](tuple(x.shape), x.dtype, "cpu") for x in (*grads, *inputs, *inputs)]
        for region, x in zip(regions, (*grads, *inputs), strict=False):
            region.tensor.copy_(x)
        sums = torch.zeros(SIZES[0], 3 * outputs, 100, dtype=torch.float64)
        library.sync_exchange_channel_backward(
            kind, dtype, inputs[0].shape, *(pair(region.tensor) for region in regions),
            *case.addresses("weight", "input_scale", "gate"), sums.data_ptr())
        assert all(region.outside_is_untouched() for region in regions)
        found.append((*(region.tensor.clone() for region in regions[4:]), sums))
    assert all(not x.isnan().any() for x in found[0])
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(other, found[0], strict=True))


@pytest.mark.parametrize("rows", [(0, 780), (0, 1), (259, 521), (779, 780)], ids=str)
@pytest.mark.parametrize("kind", ["hard", "soft", "split"])
def test_rows_of_a_dense_product_are_staged_and_finished_exactly(kind, rows):
    """Ranges that start and end inside batch entries; rows outside the range are not written."""
    case = Case("hard" if kind == "hard" else "soft", 17, torch.float32)
    view, time, view_branch, time_branch = (LAYOUTS["sliced"](x.shape, x.dtype, "cpu").tensor.copy_(x)
                                            for x in case.streams)
    begin, end = rows
    staged = torch.full((end - begin, 34), float("nan"))
    library.sync_exchange_stage("float32", view.shape, rows, pair(view), pair(time),
                                (pair(view_branch), pair(time_branch)), *case.addresses("branch_gate", "input_scale"),
                                False, staged.data_ptr())

    def per_row(name, width):
        return case.parameters[name].repeat_interleave(260, 0)[begin:end].view(-1, width)

    flat = [x.reshape(-1, 17)[begin:end] for x in (view, time, view_branch, time_branch)]
    residual = torch.cat(flat[:2], 1) + per_row("branch_gate", 34) * torch.cat(flat[2:], 1)
    torch.testing.assert_close(staged, residual * per_row("input_scale", 34))

    width = 17 if kind == "hard" else 34
    mixed = torch.randn(end - begin, width)
    outs = [torch.full_like(case.streams[0], float("nan")) for _ in range(2)]
    library.sync_exchange_finish(kind, "float32", view.shape, rows, pair(view), pair(time), *map(pair, outs),
                                 mixed.data_ptr(), *case.addresses("bias", "gate"))
    y = per_row("gate", width) * (mixed + case.parameters["bias"])
    wanted = [y, y] if kind == "hard" else y.split(17, 1)
    if kind == "soft":
        wanted = [x + y for x, y in zip(flat, wanted, strict=False)]
    for out, expected in zip(outs, wanted, strict=True):
        torch.testing.assert_close(out.view(-1, 17)[begin:end], expected)
        assert out.view(-1, 17)[:begin].isnan().all() and out.view(-1, 17)[end:].isnan().all()


def test_row_ranges_outside_the_streams_are_refused():
    x = torch.randn(1, 1, 1, 4, 8)
    staged = torch.full((8, 16), float("nan"))
    for rows in ((0, 5), (-1, 2), (3, 2)):
        with pytest.raises(ValueError, match="^rows: expected a range within 0 to 4"):
            library.sync_exchange_stage(
                "float32", x.shape, rows, pair(x), pair(x), None, 0, 0, False, staged.data_ptr()
            )
    assert staged.isnan().all()
