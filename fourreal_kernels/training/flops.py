"""Arithmetic of the reference model, counted from its sizes."""

from __future__ import annotations

from ..model.alignment import EVIDENCE_CHANNELS
from ..model.config import GridConfig

# Forward, gradients of the activations, gradients of the weights.
_PASSES = {"all": 3, "sync": 2}


def forward_flops(config: GridConfig, views: int, times: int, streams: str = "both") -> dict[str, int]:
    """Floating-point operations of one forward pass over one grid of ``views`` x ``times`` frames, by part.

    Matrix products, attention and convolutions count, a multiplication and an addition as two; the embedding of sigma,
    the modulation, the matching and everything element by element do not.

    Args:
        streams: as in :meth:`~fourreal_kernels.model.GridTransformer.forward`.
    """
    d, frame = config.dim, config.token_height * config.token_width
    tokens = views * times * frame
    lengths = {"view": [views], "time": [times], "both": [views, times]}[streams]
    if streams == "both" and config.mode == "fused":
        lengths = [views + times - 1]
    linear = 2 * tokens * d * (4 * d + 2 * int(d * config.mlp_ratio)) * len(lengths)
    sync = 0
    if streams == "both" and config.has_sync and not config.sync_per_channel:
        sync = 2 * tokens * (2 if config.mode == "two_stream_hard" else 4) * d**2
    return {
        "embedding": 2 * tokens * d * (12 + EVIDENCE_CHANNELS if config.source_input else 3) * (2 * config.patch) ** 2,
        "linear": config.depth * linear,
        "attention": config.depth * sum(4 * tokens * length * frame * d for length in lengths),
        "sync": config.depth * sync,
        "head": _head(config, tokens),
    }


def training_flops(config: GridConfig, views: int, times: int, streams: str, trainable: str) -> int:
    """Of one grid's part of a step; a frozen base needs no gradients of its weights."""
    return _PASSES[trainable] * sum(forward_flops(config, views, times, streams).values())


def _head(config: GridConfig, tokens: int) -> int:
    f = config.head_features
    convolutions = (f + 3) * 2 * f + 2 * f * 3
    if config.head == "warp":
        flows = (f + 6 + EVIDENCE_CHANNELS) * 2 * f + 2 * f * 4
        convolutions = flows + (f + 18 + EVIDENCE_CHANNELS) * 2 * f + 2 * f * 2 * f + 2 * f * 8
    return 2 * tokens * config.patch**2 * (config.dim * f + 9 * convolutions)
