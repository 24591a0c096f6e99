"""The compiled CPU kernels of QK-norm and rotary embedding, called directly, for each instruction set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fourreal_kernels import native
from op_layouts import LAYOUTS, STRIDED
from op_numerics import LOW_PRECISION, assert_close_as_pytorch, bitwise_equal, dtype_name, poisoned
from rope_formula import complex_norm_rope, eager_norm_rope, norm_rope_arguments

library = native.cpu_library()
pytestmark = pytest.mark.skipif(library is None, reason=native.why_missing("cpu"))

INSTRUCTION_SETS = library.usable_instruction_sets() if library else []
ODD = (3, 7, 9, 17, 31, 33, 65)
EVEN = (2, 6, 8, 10, 14, 16, 18, 24, 34, 40, 62, 64, 72, 100, 128, 256, 258)
EPS = 1e-6
PARTS = {"norm and rope": (True, True), "norm": (True, False), "rope": (False, True), "neither": (False, False)}


@pytest.fixture(autouse=True)
def threads():
    """One thread unless a test calls this for more; two on a busy machine make many small calls slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


def grid(x: Tensor):
    return x.data_ptr(), x.stride()


def settings(q_weight, k_weight, cos, sin, **others):
    """Keywords of the parameters in fp32, and the tensors that must live as long."""
    keep = [None if x is None else x.float() for x in (q_weight, k_weight, cos, sin)]
    keywords = dict(eps=EPS, **others)
    for name, x in zip(("q_weight", "k_weight"), keep, strict=False):
        keywords[name] = 0 if x is None else x.data_ptr()
    for name, x in zip(("cos", "sin"), keep[2:], strict=True):
        keywords[name] = (0, (), ()) if x is None else (x.data_ptr(), x.shape, x.stride())
    return keywords, keep


def forward(q, k, parameters, out_q, out_k, instruction_set="auto"):
    keywords, _keep = settings(*parameters, instruction_set=instruction_set)
    library.qk_norm_rope(*map(grid, (q, k, out_q, out_k)), dtype_name(q.dtype), q.shape, **keywords)


def backward(grads, q, k, parameters, instruction_set="auto"):
    """``(dq, dk, dq_weight, dk_weight)``, the last two in fp32 or None; everything is poisoned with NaN before."""
    dq, dk = (torch.full(q.shape, float("nan"), dtype=q.dtype) for _ in range(2))
    weights = [None if x is None else torch.full(x.shape, float("nan")) for x in parameters[:2]]
    addresses = {name: 0 if x is None else x.data_ptr()
                 for name, x in zip(("dq_weight", "dk_weight"), weights, strict=True)}
    keywords, _keep = settings(*parameters, instruction_set=instruction_set, **addresses)
    library.qk_norm_rope_backward(*map(grid, (*grads, q, k, dq, dk)), dtype_name(q.dtype), q.shape, **keywords)
    return dq, dk, *weights


def check_forward(name, q, k, parameters, out_q, out_k):
    forward(q, k, parameters, out_q, out_k, name)
    q_weight, k_weight, cos, sin = parameters
    for actual, x, weight in ((out_q, q, q_weight), (out_k, k, k_weight)):
        assert_close_as_pytorch(
            actual, complex_norm_rope(x, weight, cos, sin, EPS), eager_norm_rope(x, weight, cos, sin, EPS)
        )


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_every_head_dim_inside_nan(name, dtype, parts):
    """Inputs lie in NaN, outputs in NaN with guards around every row: nothing else is read, nothing else written."""
    norm, rope = PARTS[parts]
    for head_dim in (*EVEN, *(() if rope else (1, *ODD))):
        shape = (1, 2, 1, 3, 2, head_dim)
        q, k, *parameters = norm_rope_arguments(shape, dtype, norm=norm, rope=rope)
        outs = poisoned(shape, dtype), poisoned(shape, dtype, (0, 4, 2, 1, 3, 5))
        check_forward(name, LAYOUTS["sliced"](q), LAYOUTS["packed"](k), parameters, *(x.destination for x in outs))
        for out in outs:
            out.assert_written_exactly()


@pytest.mark.parametrize("head_dim", [2, 14, 18, 40, 64, 100])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_in_place_is_bitwise_functional(name, dtype, head_dim):
    q, k, *parameters = norm_rope_arguments((2, 2, 2, 3, 2, head_dim), dtype)
    outs = [torch.full_like(x, float("nan")) for x in (q, k)]
    forward(q, k, parameters, *outs, name)
    targets = poisoned(q.shape, dtype), poisoned(q.shape, dtype, (0, 2, 1, 3, 4, 5))
    for target, x in zip(targets, (q, k), strict=True):
        target.destination.copy_(x)
    q, k = (target.destination for target in targets)
    forward(q, k, parameters, q, k, name)
    assert bitwise_equal(q, outs[0]) and bitwise_equal(k, outs[1])
    for target in targets:
        target.assert_written_exactly()


@pytest.mark.parametrize("heads", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_any_number_of_heads(name, heads):
    q, k, *parameters = norm_rope_arguments((1, 2, 1, 2, heads, 24))
    check_forward(name, q, k, parameters, *(torch.full_like(x, float("nan")) for x in (q, k)))


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_layouts_give_the_same_bits(name, layout):
    q, k, *parameters = norm_rope_arguments((2, 3, 2, 5, 2, 18), angle_shape=(3, 1, 5, 9))
    outs = [[torch.full_like(x, float("nan")) for x in (q, k)] for _ in range(2)]
    forward(q, k, parameters, *outs[0], name)
    forward(LAYOUTS[layout](q), LAYOUTS["heads_first"](k), parameters, *outs[1], name)
    assert all(bitwise_equal(a, b) for a, b in zip(*outs, strict=True))


@pytest.mark.parametrize("layout", ["expanded", "gapped", "transposed", "inside NaN"])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_angle_strides_give_the_same_bits(name, layout):
    q, k, *weights, cos, sin = norm_rope_arguments((2, 3, 2, 5, 2, 18), angle_shape=(2, 5, 9))
    form = {
        "expanded": lambda x: x.expand(2, 3, 2, 5, 9),
        "gapped": lambda x: torch.stack([x, x * float("nan")], dim=-1)[..., 0],
        "transposed": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "inside NaN": lambda x: x.new_full((4, 8, 13), float("nan"))[1:3, 2:7, 3:12].copy_(x),
    }[layout]
    outs = [[torch.full_like(x, float("nan")) for x in (q, k)] for _ in range(2)]
    forward(q, k, (*weights, cos, sin), *outs[0], name)
    forward(q, k, (*weights, form(cos), form(sin)), *outs[1], name)
    assert all(bitwise_equal(a, b) for a, b in zip(*outs, strict=True))


def formula_gradients(function, dtype, values, cos, sin, grads):
    leaves = [None if x is None else x.detach().to(dtype).requires_grad_() for x in values]
    angles = [None if x is None else x.to(dtype) for x in (cos, sin)]
    outs = [function(leaves[i], leaves[i + 2], *angles, EPS) for i in (0, 1)]
    torch.autograd.backward(outs, [g.to(dtype) for g in grads])
    return [None if x is None else x.grad for x in leaves]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=dtype_name)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_gradients_of_every_head_dim_inside_nan(name, dtype, parts):
    norm, rope = PARTS[parts]
    for head_dim in (*EVEN, *(() if rope else ODD)):
        shape = (1, 2, 1, 11, 2, head_dim)
        q, k, *parameters = norm_rope_arguments(shape, dtype, norm=norm, rope=rope)
        values, angles = (q, k, *parameters[:2]), parameters[2:]
        grads = [torch.randn(shape).to(dtype) for _ in range(2)]
        exact = formula_gradients(complex_norm_rope, torch.float64, values, *angles, grads)
        plain = formula_gradients(eager_norm_rope, dtype, values, *angles, grads)
        inside = [LAYOUTS["sliced"](x) for x in (*grads, q, k)]
        actual = backward(inside[:2], *inside[2:], parameters, name)
        for result, wanted, eager in zip(actual, exact, plain, strict=True):
            if wanted is None:
                assert result is None
            else:
                assert_close_as_pytorch(result.to(eager.dtype), wanted, eager)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_gradients_of_one_channel(name):
    """A normalised single channel is a sign: its gradient is what is left of two nearly equal numbers."""
    q, k, *parameters = norm_rope_arguments((1, 2, 1, 11, 2, 1), rope=False)
    grads = [torch.randn_like(q) for _ in range(2)]
    actual = backward(grads, q, k, parameters, name)
    exact = formula_gradients(complex_norm_rope, torch.float64, (q, k, *parameters[:2]), None, None, grads)
    for i, x in enumerate((q, k)):
        subtracted = (grads[i] * parameters[i] / x).abs().double()
        assert ((actual[i] - exact[i]).abs() <= 4 * torch.finfo(torch.float32).eps * subtracted).all()
        torch.testing.assert_close(actual[i + 2].double(), exact[i + 2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("head_dim", [18, 40, 64])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_thread_count_does_not_change_bits(name, head_dim, threads):
    """More tokens than fit into one task of the forward or one block of the backward, with a rest."""
    q, k, *parameters = norm_rope_arguments((2, 3, 4, 101, 2, head_dim))
    grads = [torch.randn_like(q) for _ in range(2)]
    results = []
    for count in (1, 2, 3):
        threads(count)
        assert library.max_threads() == count, "the library does not share torch's OpenMP runtime"
        outs = [torch.full_like(x, float("nan")) for x in (q, k)]
        forward(q, k, parameters, *outs, name)
        results.append((*outs, *backward(grads, q, k, parameters, name)))
    assert not any(x.isnan().any() for x in results[0])
    for other in results[1:]:
        assert all(bitwise_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_sums_of_many_tokens_are_accurate():
    """The gradient of a weight sums 80000 rows: its error stays near one rounding of the result."""
    q, k, *parameters = norm_rope_arguments((1, 2, 4, 5000, 2, 16))
    q, k = q.abs() + 0.5, k.abs() + 0.5
    ones = [torch.ones_like(q)] * 2
    actual = backward(ones, q, k, (*parameters[:2], None, None))
    exact = formula_gradients(complex_norm_rope, torch.float64, (q, k, *parameters[:2]), None, None, ones)
    for result, wanted in zip(actual[2:], exact[2:], strict=True):
        torch.testing.assert_close(result.double(), wanted, rtol=1e-6, atol=0)


def test_offsets_beyond_two_to_the_31():
    """Batch entries 2^31 elements apart in one buffer; only its touched pages are ever backed by memory."""
    stride = 2**31
    buffer = torch.empty(stride + 8192, dtype=torch.bfloat16)
    sizes, strides = (2, 1, 1, 7, 2, 40), (stride, 560, 560, 80, 40, 1)
    q, k, out_q, out_k = (buffer.as_strided(sizes, strides, offset) for offset in (0, 1024, 2048, 3072))
    new_q, new_k, *parameters = norm_rope_arguments(sizes, torch.bfloat16)
    q.copy_(new_q)
    k.copy_(new_k)
    check_forward("auto", q, k, parameters, out_q, out_k)


SIZES, STRIDES = (2, 1, 1, 3, 2, 4), (24, 24, 24, 8, 4, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "int8"}, "dtype: .*got 'int8'"),
        ({"dtype": "float64"}, "dtype: .*got 'float64'"),
        ({"sizes": (2, 3, 4)}, "sizes: expected 6 integers .*got 3"),
        ({"sizes": (2, 1, 1, -3, 2, 4)}, "sizes: .*got -3"),
        ({"sizes": (2, 1, 1, 3, 2, 5)}, "sizes: expected an even number of channels to rotate, got 5"),
        ({"q": (24, 24, 24, 8, 8, 2)}, "q: expected stride 1 for the channels, got 2"),
        ({"k": (24, 24, 24, -8, 4, 1)}, "k: .*got -8"),
        ({"k": (24, 24, 24, 8, 4)}, "k: expected 6 strides, got 5"),
        ({"out_q": (0, 24, 24, 8, 4, 1)}, "out_q: .*an output, got 0 for axis 0"),
        ({"out_k": None}, "out_k: .*got 0"),
        ({"q_weight": 0}, "q_weight: expected both weights or neither"),
        ({"cos": (0, (), ())}, "cos: expected both cos and sin or neither"),
        ({"cos": ((3,), (1,))}, "cos: expected 1 to 5 sizes, the last 2"),
        ({"sin": ((2, 2), (2, 1))}, "sin: expected a size of 1 or 3, got 2"),
        ({"sin": ((2,), (-1,))}, "sin: .*got -1"),
        ({"instruction_set": "sse9"}, "instruction_set: .*got 'sse9'"),
    ],
    ids=lambda value: f"{next(iter(value))} {next(iter(value.values()))}" if isinstance(value, dict) else "",
)
def test_bad_arguments(change, message):
    q, k = torch.randn(2, *SIZES)
    outs = torch.full((2, *SIZES), float("nan"))
    parameters = torch.randn(4, 4)
    tensors = {"q": q, "k": k, "out_q": outs[0], "out_k": outs[1]}
    arguments = {name: (x.data_ptr(), STRIDES) for name, x in tensors.items()}
    arguments |= {"dtype": "float32", "sizes": SIZES, "q_weight": parameters[0].data_ptr(),
                  "k_weight": parameters[1].data_ptr()}
    arguments |= {name: (parameters[i].data_ptr(), (2,), (1,)) for name, i in (("cos", 2), ("sin", 3))}
    for name, value in change.items():
        if name in tensors:
            value = (0, STRIDES) if value is None else (tensors[name].data_ptr(), value)
        elif name in ("cos", "sin") and len(value) == 2:
            value = (parameters[2].data_ptr(), *value)
        arguments[name] = value
    with pytest.raises(ValueError, match=message):
        library.qk_norm_rope(**arguments)
    assert outs.isnan().all()
