"""Configuration of the reference model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MODES = ("two_stream_soft", "two_stream_hard", "sequential", "fused")
HEADS = ("warp", "direct")


@dataclass(frozen=True)
class GridConfig:
    """Sizes and choices of a :class:`~fourreal_kernels.model.GridTransformer`.

    Attributes:
        views, times: V and T of the grids it is trained on.
        height, width: frame size in pixels, multiples of ``patch``.
        patch: side of the square of pixels that is one token, even.
        dim, depth, heads, mlp_ratio: width, layers, attention heads and hidden width factor of the blocks.
        sync_cond_dim: width of the sigma embedding that modulates the synchronisation layers.
        sync_per_channel: one synchronisation weight per channel instead of dense matrices.
        mode: ``"two_stream_soft"`` or ``"two_stream_hard"`` (4Real-Video), ``"sequential"`` (its baseline: one stream,
            view attention then time attention) or ``"fused"`` (4Real-Video-V2: one stream, view-or-time attention).
        adapters: single streams only (sequential, fused): a trained residual map after each layer, with as many weights
            as soft synchronisation, so that the modes can be compared over one frozen base.
        source_input: give each token the same patch of the nearest given frames, and of their flows.
            Carries information around the synchronisation layers, so comparisons of the modes switch it off.
        matching: displace those frames by flows matched between given frames (no learned weights) before they are used,
            see :mod:`fourreal_kernels.model.matching`; without it they are used where they are. Frame sides must be
            multiples of 4.
        head: ``"warp"`` mixes the nearest given frames, displaced by matched and by predicted flows, with predicted
            colours; ``"direct"`` predicts colours only.
        head_features: channels per pixel inside the head.
        mix_sharpness: factor of the warp head's mixing logits outside training: above 1 it rather chooses between the
            displaced frames than averages them.
    """

    views: int = 8
    times: int = 8
    height: int = 64
    width: int = 64
    patch: int = 8
    dim: int = 256
    depth: int = 5
    heads: int = 4
    mlp_ratio: float = 4.0
    sync_cond_dim: int = 64
    sync_per_channel: bool = False
    mode: str = "two_stream_soft"
    adapters: bool = False
    source_input: bool = True
    matching: bool = True
    head: str = "warp"
    head_features: int = 16
    mix_sharpness: float = 1.0

    def __post_init__(self) -> None:
        for name, allowed in (("mode", MODES), ("head", HEADS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        for name in (
            "views", "times", "height", "width", "patch", "dim", "depth", "heads", "sync_cond_dim", "head_features"
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: got {value!r}, expected a positive integer")
        for name in ("sync_per_channel", "adapters", "source_input", "matching"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected True or False")
        for name in ("mlp_ratio", "mix_sharpness"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
                raise ValueError(f"{name}: got {value!r}, expected a positive number")
        if self.adapters and self.two_streams:
            raise ValueError(f"adapters: got True with mode {self.mode}, expected a single stream (sequential, fused)")
        if self.matching and (self.height % 4 or self.width % 4):
            raise ValueError(f"matching: needs sides that are multiples of 4, got {self.height} x {self.width}")
        if self.patch % 2:
            raise ValueError(f"patch: got {self.patch}, expected an even number of pixels")
        if self.height % self.patch or self.width % self.patch:
            raise ValueError(f"patch: got {self.patch}, expected a divisor of height={self.height}, width={self.width}")
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"heads: got {self.heads}, expected a divisor of dim={self.dim} with an even quotient")

    @property
    def two_streams(self) -> bool:
        return self.mode.startswith("two_stream")

    @property
    def has_sync(self) -> bool:
        """Whether there are weights beside the base: synchronisation layers or, of a single stream, adapters."""
        return self.two_streams or self.adapters

    @property
    def token_height(self) -> int:
        return self.height // self.patch

    @property
    def token_width(self) -> int:
        return self.width // self.patch

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GridConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: unknown names or values out of range.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"config: got unknown settings {', '.join(sorted(unknown))}")
        return cls(**values)
