"""Attention of models in diffusers before and after ``fourreal_kernels.integrations``: the same layouts and copies.

Random tensors stand for the models' own, so that diffusers is not needed. Videos have half the models' width and
height, which keeps tensors below 200 MB. SVD and AnimateDiff run two samples, as with classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

import fourreal_kernels as fk

from ..case import Case, Context, Results, Workload, random_tensor
from ..check import Deviation, deviation, edge_tokens
from ..peers import temporal as peers
from ..references import PointwiseCheck
from .attention import DENSE, attention_case, attention_flops

SUITE, LAYER = "integrations", "Attention"
COPIED = "copy + sdpa + copy"
SEQUENCES = "sdpa on sequences"
_SAMPLES = 2
_SVD_FRAMES, _SVD_HEAD_DIM = (14, 25), 64
_SVD_LEVELS = ((320, 36 * 64), (640, 18 * 32), (1280, 9 * 16))  # channels, positions of a video of 288 x 512
_ANIMATEDIFF_FRAMES, _ANIMATEDIFF_HEADS = 16, 8
_ANIMATEDIFF_LEVELS = ((320, 32 * 32), (640, 16 * 16), (1280, 8 * 8))  # of 256 x 256
_WAN_HEADS, _WAN_HEAD_DIM, _WAN_VIEWS, _WAN_TIMES = 12, 128, 4, 5
# Tokens per frame of 240 x 416, and the few at which a mask over the flattened grid takes part.
_WAN_TOKENS, _WAN_FEW_TOKENS = 15 * 26, 6 * 10
_TENSORS_MOVED = 4  # q, k, v and the output


def cases(quick: bool) -> Iterator[Case]:
    """SVD, its layer with projections, AnimateDiff, then Wan."""
    if quick:
        yield from (svd_case(3, 128, 20), svd_layer_case(3, 128, 20), animatediff_case(128, 20, times=3))
        yield from (wan_case(axes, 8, views=2, times=3, heads=2) for axes in ("vn|tn", "vn", "tn"))
        return
    yield from (svd_case(times, *level) for times in _SVD_FRAMES for level in _SVD_LEVELS)
    yield from (svd_layer_case(_SVD_FRAMES[0], *level) for level in _SVD_LEVELS)
    yield from (animatediff_case(*level) for level in _ANIMATEDIFF_LEVELS)
    yield wan_case("vn|tn", _WAN_FEW_TOKENS)
    yield from (wan_case(axes, _WAN_TOKENS) for axes in ("vn|tn", "vn", "tn"))


def svd_case(
    times: int, channels: int, tokens: int, dtype: torch.dtype = torch.float32, suite: str = SUITE
) -> Case:
    """Attention between the projections of SVD's ``attn1``: frames in, frames out.

    Its block copies the hidden states to sequences and back once; here q stands for them. k and v are stored as each
    side wants them.
    """
    sizes = _svd_sizes(times, channels, tokens)
    return _temporal_case(sizes, f"SVD, {times} frames", COPIED, _svd, dtype, suite)


def svd_layer_case(
    times: int, channels: int, tokens: int, dtype: torch.dtype = torch.float32, suite: str = SUITE
) -> Case:
    """SVD's ``attn1`` with its projections, on frames and back to frames."""
    sizes = _svd_sizes(times, channels, tokens)
    projections = 4 * 2.0 * _SAMPLES * times * tokens * channels**2
    return Case(
        suite=suite, op=LAYER, axes="t", sizes=sizes, variant=f"SVD attn1, {times} frames", main_peer=COPIED,
        dtype=dtype, flops=projections + attention_flops("t", sizes, "forward"),
        build=lambda context: _svd_layer(context, sizes, dtype),
    )


def animatediff_case(
    channels: int, tokens: int, times: int = _ANIMATEDIFF_FRAMES, dtype: torch.dtype = torch.float32,
    suite: str = SUITE,
) -> Case:
    """Attention between the projections of a motion module: sequences in, sequences out, which both sides keep.

    The module's copies around its blocks stay. The positions of all samples are one batch of sequences.
    """
    head_dim = channels // _ANIMATEDIFF_HEADS
    sizes = {"B": 1, "V": 1, "T": times, "N": _SAMPLES * tokens, "H": _ANIMATEDIFF_HEADS, "D": head_dim}
    return _temporal_case(sizes, "AnimateDiff", SEQUENCES, _animatediff, dtype, suite)


def wan_case(
    axes: str, tokens: int, views: int = _WAN_VIEWS, times: int = _WAN_TIMES, heads: int = _WAN_HEADS
) -> Case:
    """Self-attention of Wan on a grid of videos: ``vn|tn`` in mode fused, ``vn`` and ``tn`` of the two streams.

    ``models.transformers.transformer_wan.WanAttnProcessor`` has q, k and v as ``(B, V T N, H, D)``, which is the grid
    itself in memory. Fused, it takes a mask over all tokens, where they are few.
    """
    sizes = {"B": 1, "V": views, "T": times, "N": tokens, "H": heads, "D": _WAN_HEAD_DIM}
    case = replace(attention_case(axes, sizes, "forward", suite=SUITE), variant="Wan")
    return replace(case, main_peer=DENSE) if axes == "vn|tn" and tokens <= _WAN_FEW_TOKENS else case


def _svd_sizes(times: int, channels: int, tokens: int) -> dict[str, int]:
    heads = channels // _SVD_HEAD_DIM
    return {"B": _SAMPLES, "V": 1, "T": times, "N": tokens, "H": heads, "D": _SVD_HEAD_DIM}


def _temporal_case(
    sizes: dict[str, int], variant: str, main_peer: str, build, dtype: torch.dtype, suite: str
) -> Case:
    return Case(
        suite=suite, op="axis_attention", axes="t", sizes=sizes, variant=variant, main_peer=main_peer, dtype=dtype,
        flops=attention_flops("t", sizes, "forward"),
        bytes=float(dtype.itemsize * _TENSORS_MOVED * torch.Size(sizes.values()).numel()),
        build=lambda context: build(context, sizes, dtype),
    )


def _svd(context: Context, sizes: dict[str, int], dtype: torch.dtype) -> Workload:
    frames = [_frames(context, sizes, seed, dtype) for seed in range(3)]
    grids = [_frames_as_grid(x, sizes) for x in frames]
    keys, values = (peers.to_sequences(x, sizes["T"]) for x in frames[1:])

    def copied() -> Results:
        out = peers.attend_sequences(peers.to_sequences(frames[0], sizes["T"]), keys, values, sizes["H"])
        return (peers.to_frames(out, sizes["N"]),)

    work = Workload(PointwiseCheck(*grids, "t"))
    _add_ours(work, context, grids)
    work.peer(COPIED, copied, finish=lambda results: (_frames_as_grid(results[0], sizes),))
    return work


def _animatediff(context: Context, sizes: dict[str, int], dtype: torch.dtype) -> Workload:
    shape = (sizes["N"], sizes["T"], sizes["H"] * sizes["D"])
    sequences = [random_tensor(context, *shape, seed=seed, dtype=dtype) for seed in range(3)]
    grids = [_sequences_as_grid(x, sizes["H"]) for x in sequences]
    work = Workload(PointwiseCheck(*grids, "t"))
    _add_ours(work, context, grids)
    work.peer(
        SEQUENCES, lambda: (peers.attend_sequences(*sequences, sizes["H"]),),
        finish=lambda results: (_sequences_as_grid(results[0], sizes["H"]),),
    )
    return work


def _add_ours(work: Workload, context: Context, grids: list[Tensor]) -> None:
    """The result lies in memory as q does: no copy is left to do."""
    work.ours(
        context, "axis_attention",
        lambda backend: lambda: (fk.axis_attention(*grids, "t", backend=backend),), *grids, "t",
    )


def _svd_layer(context: Context, sizes: dict[str, int], dtype: torch.dtype) -> Workload:
    x = _frames(context, sizes, 0, dtype)
    projections = _projections(context, sizes["H"] * sizes["D"], dtype)
    grid = _frames_as_grid(x, sizes)

    def ours(backend: str):
        def attend(*qkv: Tensor) -> Tensor:
            out = fk.axis_attention(*(_frames_as_grid(y, sizes) for y in qkv), "t", backend=backend)
            return out.flatten(-2)[:, 0].flatten(0, 1)

        return lambda: (projections.around(attend, x),)

    work = Workload(_LayerCheck(x, projections, sizes))
    work.ours(context, "axis_attention", ours, grid, grid, grid, "t")
    work.peer(COPIED, lambda: (peers.layer(x, projections, sizes["T"], sizes["H"]),))
    return work


class _LayerCheck:
    """Compares the layer with float64 at the first and the last positions, which are independent."""

    def __init__(self, x: Tensor, projections: peers.Projections, sizes: dict[str, int]):
        self._tokens = edge_tokens(sizes["N"])
        part = x[:, self._tokens].double()
        self._expected = (peers.layer(part, projections.double(), sizes["T"], sizes["H"]),)

    def __call__(self, results: Results) -> Deviation:
        return deviation([x[:, self._tokens] for x in results], self._expected)


def _projections(context: Context, channels: int, dtype: torch.dtype) -> peers.Projections:
    """Random, so that the scores are of order one."""
    scale = channels**-0.5
    weights = [scale * random_tensor(context, channels, channels, seed=seed, dtype=dtype) for seed in range(1, 5)]
    return peers.Projections(*weights, bias=random_tensor(context, channels, seed=5, dtype=dtype))


def _frames(context: Context, sizes: dict[str, int], seed: int, dtype: torch.dtype) -> Tensor:
    """``(B T, N, C)``."""
    shape = (sizes["B"] * sizes["T"], sizes["N"], sizes["H"] * sizes["D"])
    return random_tensor(context, *shape, seed=seed, dtype=dtype)


def _frames_as_grid(x: Tensor, sizes: dict[str, int]) -> Tensor:
    """``(B T, N, C)`` as ``(B, 1, T, N, H, D)``, a view."""
    return x.unflatten(0, (-1, 1, sizes["T"])).unflatten(-1, (sizes["H"], -1))


def _sequences_as_grid(x: Tensor, heads: int) -> Tensor:
    """``(N, T, C)`` as ``(1, 1, T, N, H, D)``, a view."""
    return x.transpose(0, 1)[None, None].unflatten(-1, (heads, -1))
