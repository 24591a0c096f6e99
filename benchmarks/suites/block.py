"""One layer of the two-stream architecture, without grad."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fourreal_kernels import TIME, VIEW
from fourreal_kernels.model.blocks import GridBlock
from fourreal_kernels.nn import GridRope, SoftSync, TwoStreamBlock

from ..case import Case, Context, Results, Workload, random_tensor
from ..check import deviation
from ..peers.block import EagerTwoStreamBlock
from .attention import attention_flops

_MLP_RATIO = 4
_COND_DIM = 128
PEER = "eager block with sdpa"


def cases(quick: bool) -> Iterator[Case]:
    yield block_case(36, channels=128, heads=2) if quick else block_case(144, channels=512, heads=8)


def block_case(tokens: int, channels: int, heads: int, frames: int = 8) -> Case:
    sizes = {"B": 1, "V": frames, "T": frames, "N": tokens, "H": heads, "D": channels // heads}
    rows = frames * frames * tokens
    linear = 2.0 * rows * channels**2 * (2 * (4 + 2 * _MLP_RATIO) + 4)  # both streams; the exchange is (2C, 2C)
    attention = sum(attention_flops(axes, sizes, "forward") for axes in (VIEW, TIME))
    return Case(
        suite="block", op="TwoStreamBlock", sizes=sizes, variant="soft, dense", main_peer=PEER,
        flops=linear + attention, build=lambda context: _build(context, sizes),
    )


def _build(context: Context, sizes: dict[str, int]) -> Workload:
    dim = sizes["H"] * sizes["D"]
    block, sync = _modules(context, dim, sizes["H"])
    view, time = (random_tensor(context, 1, sizes["V"], sizes["T"], sizes["N"], dim, seed=seed) for seed in (0, 1))
    cond = random_tensor(context, 1, _COND_DIM, seed=2)
    keywords = [_stream_keywords(context, sizes, axes, seed) for axes, seed in ((VIEW, 3), (TIME, 4))]
    peer, layer = EagerTwoStreamBlock(block, sync), TwoStreamBlock(block, sync)

    def ours() -> Results:
        with torch.no_grad():
            return layer(view, time, cond, view_kwargs=keywords[0], time_kwargs=keywords[1], inplace=True)

    def eager() -> Results:
        with torch.no_grad():
            return peer(view, time, cond, *keywords)

    expected = _in_double(peer, (view, time, cond), keywords)
    work = Workload(lambda results: deviation(results, expected))
    # whatever backends the dispatch takes by itself, as a user gets them
    work.peer("ours:auto", ours)
    work.peer(PEER, eager)
    return work


def _in_double(peer: nn.Module, inputs: tuple[Tensor, ...], keywords: list[dict[str, Any]]) -> Results:
    """The eager block in float64. Its weights are those of ours: both are back in float32 afterwards, bit for bit."""
    wide = [
        {"modulation": stream["modulation"].double(), "angles": tuple(x.double() for x in stream["angles"])}
        for stream in keywords
    ]
    with torch.no_grad():
        results = peer.double()(*(x.double() for x in inputs), *wide)
    peer.float()
    return results


def _modules(context: Context, dim: int, heads: int) -> tuple[GridBlock, SoftSync]:
    """With random weights everywhere: layers that start at zero would hide errors."""
    block, sync = GridBlock(dim, heads, _MLP_RATIO), SoftSync(dim, _COND_DIM)
    for module in (block, sync):
        module.to(context.device)
        for index, parameter in enumerate(module.parameters()):
            with torch.no_grad():
                scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.1
                parameter.copy_(scale * random_tensor(context, *parameter.shape, seed=100 + index))
    return block, sync


def _stream_keywords(context: Context, sizes: dict[str, int], axes: str, seed: int) -> dict[str, Any]:
    height = int(sizes["N"] ** 0.5)
    rope: Callable[..., Any] = GridRope(sizes["D"], height, sizes["N"] // height).to(context.device)
    views, times = (torch.arange(sizes[key], device=context.device) for key in ("V", "T"))
    dim = sizes["H"] * sizes["D"]
    return {"modulation": 0.3 * random_tensor(context, 1, 6, dim, seed=seed), "angles": rope(axes, views, times)}
