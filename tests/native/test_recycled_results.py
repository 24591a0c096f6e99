"""Results in recycled memory are tensors as any other: layout, dtype, autograd, modes, copies, other processes."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fourreal_kernels import axis_attention, native, qk_norm_rope, sync_exchange
from fourreal_kernels.ops import fresh
from recycled import MIB, new, nothing_kept, only_where_recycled  # noqa: F401  (a fixture)

pytestmark = [only_where_recycled, pytest.mark.usefixtures("nothing_kept")]

SHAPE = (1, 2, 2, 256, 8, 64)  # 2 MiB of float32
LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(1, 4),
    "channels first": lambda x: x.movedim(-1, 1),
    "of a packed projection": lambda x: x.repeat(1, 1, 1, 1, 1, 3)[..., 64:128],
    "of packed heads, transposed": lambda x: x.repeat(1, 1, 1, 1, 3, 1).transpose(2, 3)[:, :, :, :, 8:16],
    "expanded": lambda x: x[:, :1].expand(SHAPE),
    "expanded along channels": lambda x: x[..., :1].expand(SHAPE),
    "odd strides of dims of one": lambda x: x.as_strided(SHAPE, (7, *x.stride()[1:])),
    "with an offset": lambda x: torch.cat((x, x))[1:],
    "a scalar's view": lambda x: x[0, 0, 0, 0, 0, 0].expand(SHAPE),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_empty_like(layout, dtype):
    x = LAYOUTS[layout](torch.zeros(SHAPE, dtype=dtype))
    result, expected = fresh.empty_like(x), torch.empty_like(x)
    properties = ("shape", "dtype", "device", "is_leaf", "requires_grad", "_version", "layout", "nbytes")
    assert [getattr(result, name) for name in properties] == [getattr(expected, name) for name in properties]
    assert (result.stride(), result.storage_offset()) == (expected.stride(), 0)
    assert result.untyped_storage().nbytes() == expected.untyped_storage().nbytes()
    assert type(result) is torch.Tensor and not result.is_inference()
    assert torch.equal(result.copy_(torch.rand_like(result)).clone().double(), result.double())
    block = max(result.nbytes, 2 * MIB)
    del result
    assert fresh.kept_bytes() == block if dtype.itemsize == 4 else fresh.kept_bytes() >= MIB


def test_a_parameter_and_what_requires_grad():
    for x in (torch.nn.Parameter(torch.zeros(SHAPE)), torch.zeros(SHAPE, requires_grad=True)):
        result = fresh.empty_like(x)
        assert type(result) is torch.Tensor and not result.requires_grad and result.is_leaf
        del result
        assert fresh.release_kept_memory() == 2 * MIB


def test_inference_mode():
    with torch.inference_mode():
        assert fresh.empty_like(torch.zeros(SHAPE)).is_inference()
    assert fresh.kept_bytes() == 2 * MIB


def test_modes_of_torch_see_their_own_tensors():
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    seen, x = [], torch.zeros(SHAPE)
    with Seen():
        fresh.empty_like(x)
    assert torch.ops.aten.empty_like.default in seen
    with FakeTensorMode() as mode:
        assert type(fresh.empty_like(mode.from_tensor(x))) is FakeTensor
    assert fresh.empty_like(x.to("meta")).is_meta
    large = torch.zeros(1, 9 << 18)
    assert torch.vmap(fresh.empty_like, randomness="same")(large).shape == large.shape
    assert fresh.kept_bytes() == 0


def test_other_dtypes_and_subclasses_are_torchs():
    class Named(torch.Tensor):
        pass

    assert fresh.empty_like(torch.zeros(MIB, dtype=torch.int32)).dtype == torch.int32
    assert type(fresh.empty_like(torch.zeros(SHAPE).as_subclass(Named))) is Named
    assert fresh.kept_bytes() == 0


def test_resizing():
    result = new(2)
    with pytest.raises(RuntimeError, match="not resizable"):
        result.resize_(2 * result.numel())
    assert result.resize_(10).shape == (10,)
    assert result.clone().resize_(20).shape == (20,)


def test_copies_and_shared_memory():
    result = new(2).fill_(4)
    stored = io.BytesIO()
    torch.save(result, stored)
    stored.seek(0)
    for other in (copy.deepcopy(result), torch.load(stored), result.clone(), torch.from_numpy(result.numpy().copy())):
        assert torch.equal(other, result) and other.data_ptr() != result.data_ptr()
    assert torch.from_dlpack(result).data_ptr() == result.data_ptr()
    assert fresh.kept_bytes() == 0
    assert torch.equal(result.share_memory_(), other) and result.is_shared()
    assert fresh.kept_bytes() == 2 * MIB  # its values have moved


def attention(*tensors: torch.Tensor) -> torch.Tensor:
    return axis_attention(*tensors, "v", backend="cpu")


def norm_rope(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    weight = torch.ones(64, requires_grad=True)
    return torch.stack(qk_norm_rope(q, k, weight, weight, None, None, backend="cpu")) + v


def exchange(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    weight = torch.full((2, 64), 0.5, requires_grad=True)
    return torch.stack(sync_exchange(q, k, weight, kind="hard", backend="cpu")) + v


@pytest.mark.parametrize("operator", [attention, norm_rope, exchange])
def test_gradients_between_other_calls(operator):
    """What a backward reads is not handed out in the meantime; its results are recycled."""
    tensors = [torch.randn(SHAPE, requires_grad=True) for _ in range(3)]
    native.cpu_library().set_kept_limit(0)
    out = operator(*tensors)
    upstream = torch.randn_like(out)
    expected = (out.detach().clone(), *torch.autograd.grad(out, tensors, upstream))
    del out
    native.cpu_library().set_kept_limit(512 * MIB)
    kept = operator(*tensors)
    for _ in range(2):  # the second in memory that the first used
        for x in torch.autograd.grad(operator(*tensors), tensors, upstream):
            x.fill_(float("nan"))
    del x
    assert fresh.kept_bytes() >= 2 * MIB
    before = fresh.kept_bytes()
    grads = torch.autograd.grad(kept, tensors, upstream)
    assert fresh.kept_bytes() < before
    for result, wanted in zip((kept, *grads), expected, strict=True):
        assert torch.equal(result, wanted)


def test_compiled():
    q, k, v = (torch.randn(SHAPE, requires_grad=True) for _ in range(3))
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        results = [torch.autograd.grad(run(q, k, v).sin().sum(), (q, k, v)) for run in (attention, compiled)]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        del results
        assert fresh.kept_bytes() > 2 * MIB
