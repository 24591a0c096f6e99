"""``python compare.py MODULE DIRECTION``: exit status 1 if the module's attention is wrong, 86 if its kernel stops."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

_SCALE = 128**-0.5


def _addresses(*tensors: Tensor) -> list[tuple[int, tuple[int, ...]]]:
    return [(x.data_ptr(), x.stride()) for x in tensors]


def _attention(inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All tokens attend to all, in float64: (out, lse) of inputs ``(B, V, T, N, H, D)``, B, T and H 1."""
    q, k, v = (x.reshape(-1, 128) for x in inputs)
    scores = q @ k.T * _SCALE
    shape = inputs[0].shape
    return (scores.softmax(-1) @ v).reshape(shape), scores.logsumexp(-1).reshape(shape[:5])


def _close(actual: Tensor, exact: Tensor, bound: float) -> bool:
    return bool((actual.double() - exact).abs().max() < bound)


def forward(library: ModuleType) -> bool:
    """Four key tiles of 192 rows, D = 128: the ring of two stages turns twice."""
    shape = (1, 6, 1, 128, 1, 128)
    q, k, v = (torch.randn(shape).bfloat16() for _ in range(3))
    exact, _ = _attention([q.double(), k.double(), v.double()])
    out, lse = torch.full_like(q, float("nan")), torch.full(shape[:5], float("nan"))
    library.frame_attention_forward("bfloat16", shape, "vn", _SCALE, _addresses(q, k, v, out, lse))
    return _close(out, exact, 0.02)


def backward(library: ModuleType) -> bool:
    """Eight tiles of 64 queries and four of 128 keys, D = 128, with tails: the rings turn twice."""
    shape = (1, 4, 1, 117, 1, 128)
    inputs = [torch.randn(shape).bfloat16() for _ in range(3)]
    grad = torch.randn(shape).bfloat16()
    leaves = [x.double().requires_grad_() for x in inputs]
    out, lse = _attention(leaves)
    exact = torch.autograd.grad(out, leaves, grad.double())
    results = out.detach().bfloat16(), lse.detach().float()
    grads = [torch.full_like(x, float("nan")) for x in inputs]
    scratch = torch.full((library.frame_attention_backward_floats(shape),), float("nan"))
    library.frame_attention_backward(
        "bfloat16", shape, "vn", _SCALE, [*_addresses(grad), (0, ()), *_addresses(*inputs, *results, *grads)],
        scratch.data_ptr())
    return all(_close(actual, wanted, 0.02) for actual, wanted in zip(grads, exact, strict=True))


_DIRECTIONS: dict[str, Callable[[ModuleType], bool]] = {"forward": forward, "backward": backward}


def main() -> int:
    spec = importlib.util.spec_from_file_location("_cuda", sys.argv[1])
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    for order in (0, 1, 5):
        torch.manual_seed(0)
        library.set_launches(2, order)
        if not _DIRECTIONS[sys.argv[2]](library):
            print(f"order {order}: wrong")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
