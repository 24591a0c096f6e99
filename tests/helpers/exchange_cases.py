"""Inputs, guarded layouts and the plain PyTorch formula for tests of the compiled per-channel exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16")}
TOKENS = (1, 7, 63, 65, 100, 240, 390)
CHANNELS = (1, 3, 8, 17, 64, 100)
GUARD = 64
CUDA_SOURCES = ("sync_exchange_channel", "sync_exchange_channel_backward", "sync_exchange_dense", "sync_exchange_norm",
                "sync_exchange_norm_elements", "sync_exchange_norm_backward")


def parameter_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass
class Region:
    """A strided tensor inside a longer buffer filled with NaN."""

    buffer: Tensor
    tensor: Tensor

    def outside_is_untouched(self) -> bool:
        owned = torch.zeros(self.buffer.shape, dtype=torch.bool, device=self.buffer.device)
        owned.as_strided(self.tensor.shape, self.tensor.stride(), self.tensor.storage_offset()).fill_(True)
        return bool((self.buffer.isnan() | owned).all())


def _nan_buffer(count: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.full((count + 2 * GUARD,), float("nan"), dtype=dtype, device=device)


def _place(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, take: Callable[[Tensor], Tensor]
) -> Region:
    """A buffer for a tensor of `shape` between guards; `take` picks the (B, V, T, N, C) part of it."""
    count = int(torch.Size(shape).numel())
    buffer = _nan_buffer(count, dtype, device)
    return Region(buffer, take(buffer[GUARD : GUARD + count].view(shape)))


def contiguous(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Region:
    return _place(sizes, dtype, device, lambda x: x)


def sliced(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Region:
    """Offset and cut along every axis; strides that no vector width divides."""
    b, v, t, n, c = sizes
    return _place((b + 1, v + 2, t + 1, n + 3, c + 5), dtype, device,
                  lambda x: x[1:, 1 : 1 + v, :t, 2 : 2 + n, 3 : 3 + c])


def permuted(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Region:
    b, v, t, n, c = sizes
    return _place((n, t, b, v, c), dtype, device, lambda x: x.permute(2, 3, 1, 0, 4))


def half_of_packed(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Region:
    """The second half of the channels of a packed (B, V, T, N, 2C) tensor."""
    c = sizes[-1]
    return _place((*sizes[:-1], 2 * c), dtype, device, lambda x: x[..., c:])


def padded(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Region:
    """Rows that start at multiples of 8 elements whatever C is: vectors fit the strides, not the channels."""
    c = sizes[-1]
    return _place((*sizes[:-1], (c // 8 + 1) * 8), dtype, device, lambda x: x[..., :c])


def expanded(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Region:
    """One view and one token repeated by strides of 0: an input only."""
    b, _, t, _, c = sizes
    return _place((b, 1, t, 1, c), dtype, device, lambda x: x.expand(sizes))


WRITABLE_LAYOUTS = {
    "contiguous": contiguous,
    "sliced": sliced,
    "permuted": permuted,
    "packed": half_of_packed,
}
LAYOUTS = WRITABLE_LAYOUTS | {"padded": padded, "expanded": expanded}


@dataclass
class Parameters:
    weight: Tensor
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    gate: Tensor | None = None


def make_parameters(batch: int, channels: int, dtype: torch.dtype, device: str, seed: int = 0,
                    bias: bool = True, input_scale: bool = True, gate: bool = True) -> Parameters:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, parameter_dtype(dtype))

    return Parameters(
        random(2, channels),
        random(channels) if bias else None,
        random(batch, 2 * channels) if input_scale else None,
        random(batch, channels) if gate else None,
    )


def fill(tensor: Tensor, seed: int) -> None:
    """Random values; through the base of an expanded tensor, which cannot be written itself."""
    index = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())
    base = tensor[index]
    generator = torch.Generator().manual_seed(seed)
    base.copy_(torch.randn(base.shape, generator=generator, dtype=parameter_dtype(base.dtype)))


def formula(view: Tensor, time: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """(y, the sum of the absolute values of its terms) in float64; the second scales rounding errors."""
    batch, channels = view.shape[0], view.shape[-1]
    ones = torch.ones((), dtype=torch.float64, device=view.device)

    def per_channel(value: Tensor | None, default: float) -> Tensor:
        if value is None:
            return (ones * default).expand(batch, 1, 1, 1, channels)
        return value.double().reshape(-1, 1, 1, 1, channels).expand(batch, 1, 1, 1, channels)

    scale = parameters.input_scale
    gate = per_channel(parameters.gate, 1.0)
    weight = parameters.weight.double()
    view_scale = per_channel(None if scale is None else scale[:, :channels], 1.0)
    time_scale = per_channel(None if scale is None else scale[:, channels:], 1.0)
    from_view = gate * weight[0] * view_scale * view.double()
    from_time = gate * weight[1] * time_scale * time.double()
    offset = gate * per_channel(parameters.bias, 0.0)
    return from_view + from_time + offset, from_view.abs() + from_time.abs() + offset.abs()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def exchange(library, view: Tensor, time: Tensor, out_view: Tensor, out_time: Tensor, parameters: Parameters,
             **options) -> None:
    """Call the hard per-channel exchange of a compiled library on tensors: the CPU's, or in float32 the CUDA one."""
    tensors = (view, time, out_view, out_time)
    dtype = str(view.dtype).removeprefix("torch.")
    addresses = [_address(x) for x in (parameters.weight, parameters.bias, parameters.input_scale, parameters.gate)]
    pairs = [(x.data_ptr(), x.stride()) for x in tensors]
    library.sync_exchange_channel("hard", dtype, view.shape, *pairs, *addresses, **options)


def assert_close(result: Tensor, view: Tensor, time: Tensor, parameters: Parameters, what: str) -> None:
    """Each element within a few roundings of the arithmetic and one rounding of the storage type."""
    expected, magnitude = formula(view, time, parameters)
    storage = torch.finfo(result.dtype)
    arithmetic = torch.finfo(parameter_dtype(result.dtype)).eps / 2
    error = (result.double() - expected).abs()
    bound = 6 * arithmetic * magnitude
    if result.dtype in (torch.float16, torch.bfloat16):
        smallest_step = storage.smallest_normal * storage.eps
        bound = bound * (1 + storage.eps) + storage.eps / 2 * expected.abs() + smallest_step / 2
    worst = (error - bound).max().item()
    assert worst <= 0, f"{what}: error exceeds its bound by {worst:.3e}"  # also false for NaN


def check_functional(library, sizes: tuple[int, ...], dtype: torch.dtype, layouts: tuple[str, str, str, str],
                     device: str = "cpu", **options) -> None:
    """Run with the layouts of (view, time, out_view, out_time); check values, equal outputs, and guards."""
    what = f"sizes {sizes}, {dtype}, layouts {layouts}"
    view, time, out_view, out_time = (LAYOUTS[name](sizes, dtype, device) for name in layouts)
    fill(view.tensor, 1)
    fill(time.tensor, 2)
    before = view.tensor.clone(), time.tensor.clone()
    parameters = make_parameters(sizes[0], sizes[-1], dtype, device)
    exchange(library, view.tensor, time.tensor, out_view.tensor, out_time.tensor, parameters, **options)
    assert_close(out_view.tensor, *before, parameters, what)
    assert torch.equal(out_view.tensor, out_time.tensor), what
    assert torch.equal(view.tensor, before[0]) and torch.equal(time.tensor, before[1]), what
    for region in (view, time, out_view, out_time):
        assert region.outside_is_untouched(), f"{what}: memory outside the tensor changed"


def check_in_place(library, sizes: tuple[int, ...], dtype: torch.dtype, layouts: tuple[str, str],
                   device: str = "cpu", **options) -> None:
    """In place on (view, time) gives the bits of the functional form on contiguous copies; check guards."""
    what = f"sizes {sizes}, {dtype}, layouts {layouts}"
    view, time = (WRITABLE_LAYOUTS[name](sizes, dtype, device) for name in layouts)
    fill(view.tensor, 1)
    fill(time.tensor, 2)
    parameters = make_parameters(sizes[0], sizes[-1], dtype, device)
    outputs = [torch.full(sizes, float("nan"), dtype=dtype, device=device) for _ in range(2)]
    exchange(library, view.tensor.contiguous(), time.tensor.contiguous(), *outputs, parameters, **options)
    exchange(library, view.tensor, time.tensor, view.tensor, time.tensor, parameters, **options)
    assert torch.equal(view.tensor, outputs[0]) and torch.equal(time.tensor, outputs[1]), what
    assert not outputs[0].isnan().any(), what
    for region in (view, time):
        assert region.outside_is_untouched(), f"{what}: memory outside the tensor changed"
