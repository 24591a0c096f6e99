"""Calls every kernel of a compiled CPU module, so that AddressSanitizer sees each byte that it reads or writes.

    sanitized_calls.py MODULE                 all kernels, instruction sets and layouts; prints what was called
    sanitized_calls.py MODULE --beyond KERNEL a call whose sizes exceed its tensors by one token (--fenced: slices)
    sanitized_calls.py MODULE --misaligned    a call with a float32 parameter at an odd address
    sanitized_calls.py MODULE --unsanitized   all calls of a module that is not sanitized: are they complete?

Tensors either end where their memory ends, or are slices of larger memory whose remainder is forbidden to be touched.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import itertools
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

SANITIZED = "--unsanitized" not in sys.argv
LENGTH_AXIS = 3  # the tokens, of streams and of attention inputs
AXES = ("vn", "tn", "vn|tn", "n", "vtn", "vt", "v", "t", "v|t")
HALF = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


class RowRange(NamedTuple):
    first: int
    last: int


class Kernels:
    """The module's functions for one instruction set; remembers the names of those that were called."""

    def __init__(self, module: ModuleType, instruction_set: str, called: set[str], beyond: str | None = None):
        self._module, self._set, self._called, self._beyond = module, instruction_set, called, beyond

    def __getattr__(self, name: str) -> Callable:
        function = getattr(self._module, name)
        options = {"instruction_set": self._set} if "instruction_set:" in function.__doc__ else {}

        def call(*arguments, **keywords):
            self._called.add(name)
            if name == self._beyond:
                arguments = one_token_more(arguments)
            return function(*arguments, **keywords, **options)

        return call


def one_token_more(arguments: tuple) -> tuple:
    sizes = next(x for x in arguments if isinstance(x, torch.Size))
    grown = torch.Size(size + (axis == LENGTH_AXIS) for axis, size in enumerate(sizes))
    rows = RowRange(0, grown[:-1].numel())
    return tuple(grown if x is sizes else rows if isinstance(x, RowRange) else x for x in arguments)


def exact(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Fills its memory, behind which AddressSanitizer keeps a guard zone."""
    return _random(torch.empty(shape, dtype=dtype))


def fenced(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A slice along every dim, unaligned; the memory around each of its rows is poisoned."""
    before, after = (1,) * (len(shape) - 1) + (3,), (1,) * (len(shape) - 1) + (8,)
    buffer = torch.full([sum(sizes) for sizes in zip(before, shape, after, strict=True)], float("nan"), dtype=dtype)
    part = buffer[tuple(slice(skip, skip + size) for skip, size in zip(before, shape, strict=True))]
    _random(part)
    owned = torch.zeros(buffer.shape, dtype=torch.int8)
    owned.as_strided(part.shape, part.stride(), part.storage_offset()).fill_(1)
    edges = torch.diff(owned.flatten(), prepend=torch.ones(1, dtype=torch.int8), append=torch.ones(1, dtype=torch.int8))
    begins, ends = (torch.nonzero(edges == sign).flatten().tolist() for sign in (-1, 1))
    for begin, end in zip(begins, ends, strict=True):
        _forbid(buffer.data_ptr() + begin * dtype.itemsize, (end - begin) * dtype.itemsize)
    return part


def tokens_inside(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Stored with the third dim from the end innermost but one, as a (B, H, V, T, N, D) tensor; fills its memory."""
    order = (0, len(shape) - 2, *range(1, len(shape) - 2), len(shape) - 1)
    stored = exact(tuple(shape[dim] for dim in order), dtype)
    return stored.permute([order.index(dim) for dim in range(len(shape))])


LAYOUTS = (exact, fenced, tokens_inside)


def _random(x: Tensor) -> Tensor:
    return x.copy_(torch.randn(x.shape, dtype=torch.float64))


@cache
def _poison() -> Callable:
    return ctypes.CDLL(None).__asan_poison_memory_region


def _forbid(address: int, count: int) -> None:
    if SANITIZED:
        _poison()(ctypes.c_void_p(address), ctypes.c_size_t(count))


def poisoned_result(make: Callable, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return make(shape, dtype).fill_(float("nan"))


def require_written(*results: Tensor) -> None:
    for result in results:
        if not result.isfinite().all():
            raise SystemExit(f"a result of shape {tuple(result.shape)} is not finite everywhere")


def pair(x: Tensor) -> tuple[int, tuple[int, ...]]:
    return x.data_ptr(), x.stride()


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def attention(
    kernels: Kernels, shape: tuple[int, ...], axes: str, dtype: torch.dtype, make: Callable, extra_tokens: int = 0
) -> None:
    extra_shape = (shape[0], max(1, extra_tokens), *shape[4:])
    extra = [make(extra_shape, dtype) for _ in range(2)]
    extra_grads = [poisoned_result(make, extra_shape, dtype) for _ in range(2)]
    with_extra, with_gradients = (
        {"extra_tokens": extra_tokens, "extra": [pair(x) for x in tensors]} if extra_tokens else {}
        for tensors in (extra, extra + extra_grads)
    )
    q, k, v, grad_out = (make(shape, dtype) for _ in range(4))
    out, dq, dk, dv = (poisoned_result(make, shape, dtype) for _ in range(4))
    lse, grad_lse = poisoned_result(exact, shape[:5], torch.float32), exact(shape[:5], torch.float32)
    common = (name_of(dtype), q.shape, axes, shape[-1] ** -0.5)
    kernels.axis_attention_forward(*common, [pair(x) for x in (q, k, v, out, lse)], **with_extra)
    require_written(out, lse)
    for lse_address in (pair(grad_lse), (0, ())):
        tensors = [pair(grad_out), lse_address, *(pair(x) for x in (q, k, v, out, lse, dq, dk, dv))]
        kernels.axis_attention_backward(*common, tensors, **with_gradients)
        require_written(dq, dk, dv, *(extra_grads if extra_tokens else ()))


def attention_pair(kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype, make: Callable) -> None:
    streams, results = [], []
    for _ in range(2):
        out, lse = poisoned_result(make, shape, dtype), poisoned_result(exact, shape[:5], torch.float32)
        streams.append((*(make(shape, dtype) for _ in range(3)), out, lse))
        results += [out, lse]
    addresses = [[pair(x) for x in stream] for stream in streams]
    kernels.axis_attention_forward_pair(name_of(dtype), streams[0][0].shape, ("vn", "tn"), 0.3, *addresses)
    require_written(*results)


def norm_rope(kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype, make: Callable,
              norm: bool, angle_dims: int) -> None:
    """``angle_dims``: how many of (B, V, T, N, D / 2), from the last, the angles have; 0: no rotation."""
    q, k, grad_q, grad_k = (make(shape, dtype) for _ in range(4))
    out_q, out_k, dq, dk = (poisoned_result(make, shape, dtype) for _ in range(4))
    weights, of_weights = [exact(shape[-1:], torch.float32) for _ in range(2)], [exact(shape[-1:], torch.float32)] * 2
    angle_shape = (*shape[:4], shape[-1] // 2)[5 - angle_dims :]
    angles = [exact(angle_shape, torch.float32) for _ in range(2)]
    weight_addresses = [x.data_ptr() if norm else 0 for x in weights]
    gradient_addresses = [x.data_ptr() if norm else 0 for x in of_weights]
    angle_addresses = [(x.data_ptr(), x.shape[:], x.stride()) if angle_dims else (0, (), ()) for x in angles]
    setting, last = (name_of(dtype), q.shape, *weight_addresses), (*angle_addresses, 1e-6)
    kernels.qk_norm_rope(*map(pair, (q, k, out_q, out_k)), *setting, *last)
    require_written(out_q, out_k)
    kernels.qk_norm_rope_backward(*map(pair, (grad_q, grad_k, q, k, dq, dk)), *setting, *gradient_addresses, *last)
    require_written(dq, dk, *of_weights)
    kernels.qk_norm_rope(*map(pair, (q, k, q, k)), *setting, *last)
    require_written(q, k)


class Exchange:
    """Streams, parameters and results of an exchange with per-channel or dense weights."""

    def __init__(self, kernels: Kernels, shape: tuple[int, ...], kind: str, dtype: torch.dtype, make: Callable):
        self.kernels, self.shape, self.kind, self.dtype, self.make = kernels, shape, kind, dtype, make
        self.accumulation = HALF.get(dtype, dtype)
        self.outputs = 1 if kind == "hard" else 2
        self.sizes = torch.Size(shape)
        batch, channels = shape[0], shape[-1]
        self.streams, self.branches = self._pair(), self._pair()
        self.weight = self._parameter(self.outputs, 2, channels)
        self.bias = self._parameter(self.outputs * channels)
        self.gate = self._parameter(batch, self.outputs * channels)
        self.input_scale, self.branch_gate, self.norm_scale, self.norm_shift = (
            self._parameter(batch, 2 * channels) for _ in range(4)
        )

    def _pair(self) -> list[Tensor]:
        return [self.make(self.shape, self.dtype) for _ in range(2)]

    def _parameter(self, *shape: int) -> Tensor:
        return exact(shape, self.accumulation)

    def _results(self) -> list[Tensor]:
        return [x.fill_(float("nan")) for x in self._pair()]

    def _norm(self, norms: list[Tensor]) -> tuple:
        parameters = (self.branch_gate, self.norm_scale, self.norm_shift)
        return *map(pair, (*self.branches, *norms)), *(x.data_ptr() for x in parameters), 1e-6

    def per_channel(self) -> None:
        addresses = [x.data_ptr() for x in (self.weight, self.bias, self.input_scale, self.gate)]
        common = (self.kind, name_of(self.dtype), self.sizes)
        outs, norms = self._results(), self._results()
        for norm in (None, self._norm(norms), self._norm(self.branches)):
            self.kernels.sync_exchange_channel(*common, *map(pair, (*self.streams, *outs)), *addresses, norm)
            require_written(*outs)
        require_written(*norms, *self.branches)
        grads = self._pair()
        sums = torch.zeros(self.shape[0], 3 * self.outputs, self.shape[-1], dtype=torch.float64)
        tensors = (*grads, *self.streams, *outs)
        addresses = [x.data_ptr() for x in (self.weight, self.input_scale, self.gate, sums)]
        self.kernels.sync_exchange_channel_backward(*common, *map(pair, tensors), *addresses)
        require_written(*outs, sums)
        self.kernels.sync_exchange_channel(*common, *map(pair, (*self.streams, *self.streams)),
                                           *(x.data_ptr() for x in (self.weight, self.bias)), 0, 0, None)
        require_written(*self.streams)

    def dense(self) -> None:
        total = self.sizes[:-1].numel()
        for rows in {RowRange(0, total), RowRange(total // 3, total // 3 + 1)}:
            for total_of_both, with_branches in itertools.product((False, True), repeat=2):
                self._stage(rows, total_of_both, with_branches)
            for finish in ("hard",) if self.kind == "hard" else ("soft", "split"):
                self._finish(rows, finish)

    def _stage(self, rows: RowRange, total_of_both: bool, with_branches: bool) -> None:
        staged = self._parameter(rows.last - rows.first, (1 if total_of_both else 2) * self.shape[-1])
        branches = tuple(map(pair, self.branches)) if with_branches else None
        self.kernels.sync_exchange_stage(
            name_of(self.dtype), self.sizes, rows, *map(pair, self.streams), branches, self.branch_gate.data_ptr(),
            self.input_scale.data_ptr(), total_of_both, staged.data_ptr(),
        )
        require_written(staged)

    def _finish(self, rows: RowRange, finish: str) -> None:
        mixed = self._parameter(rows.last - rows.first, self.outputs * self.shape[-1])
        outs, norms = self._results(), self._results()
        for norm in (None,) if finish == "split" else (None, self._norm(norms)):
            self.kernels.sync_exchange_finish(
                finish, name_of(self.dtype), self.sizes, rows, *map(pair, (*self.streams, *outs)), mixed.data_ptr(),
                self.bias.data_ptr(), self.gate.data_ptr(), norm,
            )
        if rows.first == 0:
            require_written(*outs)


def call_attention(kernels: Kernels) -> None:
    for axes, channels, make in itertools.product(AXES, (3, 16, 40, 64), LAYOUTS):
        attention(kernels, (2, 2, 3, 5, 1, channels), axes, torch.float32, make)
    for axes, dtype, make in itertools.product(AXES, (torch.bfloat16, torch.float16), LAYOUTS):
        attention(kernels, (1, 3, 2, 7, 2, 40), axes, dtype, make)
    for axes in ("vn", "vn|tn"):  # several panels of queries and blocks of keys
        attention(kernels, (1, 2, 2, 101, 1, 24), axes, torch.float32, fenced)
    attention(kernels, (1, 2, 2, 260, 3, 256), "vn|tn", torch.bfloat16, fenced)  # a part of the heads at a time
    for axes, make in itertools.product(("vn", "tn", "vn|tn", "n", "vtn"), LAYOUTS):
        attention(kernels, (2, 2, 3, 5, 2, 40), axes, torch.float32, make, extra_tokens=7)
    for dtype in (torch.bfloat16, torch.float32):  # several tasks per line and blocks of keys
        attention(kernels, (1, 2, 2, 101, 1, 24), "vn", dtype, fenced, extra_tokens=101)
    for axes in ("v", "vt", "v|t"):  # several chunks of queries
        attention(kernels, (1, 9, 7, 2, 1, 8), axes, torch.float32, fenced)
    for axes in ("vt", "v|t"):  # sequences whose panels would not fit the scratch of a thread
        attention(kernels, (1, 15, 14, 1, 1, 256), axes, torch.bfloat16, fenced)
    for entries, channels, make in itertools.product((8, 16, 21, 32), (40, 64, 128), LAYOUTS):  # short sequences
        attention(kernels, (1, entries, 1, 3, 2, channels), "v", torch.float32, make)
    for views, channels, make in itertools.product((8, 13), (40, 64), LAYOUTS):
        attention(kernels, (1, views, 8, 2, 1, channels), "v|t", torch.float32, make)
    for shape in ((1, 4, 2, 2048, 4, 16), (1, 8, 1, 1700, 2, 40)):  # written past the caches, a head or two at a time
        attention(kernels, shape, "v", torch.float32, exact)
    for dtype, make in itertools.product((torch.float32, torch.bfloat16), LAYOUTS):
        attention_pair(kernels, (1, 2, 3, 9, 1, 40), dtype, make)


def call_norm_rope(kernels: Kernels) -> None:
    forms = [(True, 0), (False, 5), (True, 5), (True, 2)]
    for channels, dtype, make, form in itertools.product((16, 40, 66), (torch.float32, torch.bfloat16), LAYOUTS, forms):
        norm_rope(kernels, (2, 2, 2, 5, 3, channels), dtype, make, *form)
    for channels in (1, 3):
        norm_rope(kernels, (2, 2, 1, 5, 1, channels), torch.float16, fenced, True, 0)


def call_exchange(kernels: Kernels) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for kind, dtype, channels, make in itertools.product(("hard", "soft"), dtypes, (1, 3, 17, 40, 100), LAYOUTS):
        exchange = Exchange(kernels, (2, 2, 2, 5, channels), kind, dtype, make)
        exchange.per_channel()
        exchange.dense()


def call_measurements(kernels: Kernels) -> None:
    kernels.measure_copy_gbs(1, 1)
    kernels.measure_fma_gflops(1)
    large = torch.zeros(5 << 20, dtype=torch.uint8)
    kernels.prefer_huge_pages(large.data_ptr(), large.nbytes)


def call_questions(kernels: Kernels) -> None:
    """What operators ask about their arguments."""
    q, strided = exact((2, 3, 4, 16), torch.float32), fenced((3, 5, 16), torch.bfloat16)
    given = (q, strided.transpose(0, 1), None, True, 0.5, "vn")
    if kernels.layout(given) is None or kernels.layout((*given, object())) is not None:
        raise SystemExit("layout: expected bytes, and None for an object of another kind")
    kernels.plain_call(given, True)
    first, second = exact((2, 3, 2, 16), torch.float32).unbind(2)
    for tensors in ((first, second), (q, strided), (strided.transpose(0, 1), None, q), (q[:, :1].expand_as(q), q)):
        kernels.surely_apart(tensors, 1)


def call_recycling(kernels: Kernels) -> None:
    kernels.set_kept_limit(64 << 20)
    kernels.recycled_tensor((1024, 1024), (1024, 1), (2, 32))
    kernels.kept_bytes()
    kernels.release_kept()
    kernels.set_kept_limit(0)


def call_everything(module: ModuleType) -> None:
    information = {"build_info", "instruction_set", "max_threads", "usable_instruction_sets"}
    names, called = {name for name in dir(module) if not name.startswith("_")} - information, set()
    for instruction_set in module.usable_instruction_sets():
        kernels = Kernels(module, instruction_set, called)
        for part in (call_attention, call_norm_rope, call_exchange, call_measurements, call_questions, call_recycling):
            part(kernels)
    if names != called:
        raise SystemExit(f"not called: {sorted(names - called)}")
    print("called:", *sorted(called))


def call_beyond(module: ModuleType, name: str, make: Callable) -> None:
    kernels = Kernels(module, "auto", set(), beyond=name)
    if name == "axis_attention_forward_pair":
        attention_pair(kernels, (1, 2, 2, 3, 1, 16), torch.float32, make)
    elif name.startswith("axis_attention"):
        attention(kernels, (1, 2, 2, 3, 1, 16), "vn", torch.float32, make)
    elif name.startswith("qk_norm_rope"):
        norm_rope(kernels, (1, 2, 2, 3, 1, 16), torch.float32, make, norm=True, angle_dims=1)
    else:
        exchange = Exchange(kernels, (1, 2, 2, 3, 16), "soft", torch.float32, make)
        exchange.per_channel() if "channel" in name else exchange.dense()


def call_misaligned(module: ModuleType) -> None:
    exchange = Exchange(Kernels(module, "portable", set()), (1, 1, 1, 2, 1), "hard", torch.float32, exact)
    exchange.weight = exact((2, 3), torch.float32).view(torch.int8)[0, 1:]
    exchange.per_channel()


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fourreal_kernels._cpu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module", type=Path)
    parser.add_argument("--beyond", metavar="KERNEL")
    parser.add_argument("--fenced", action="store_true")
    parser.add_argument("--misaligned", action="store_true")
    parser.add_argument("--unsanitized", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    module = load(arguments.module)
    if arguments.beyond:
        call_beyond(module, arguments.beyond, fenced if arguments.fenced else exact)
    elif arguments.misaligned:
        call_misaligned(module)
    else:
        call_everything(module)


if __name__ == "__main__":
    main()
