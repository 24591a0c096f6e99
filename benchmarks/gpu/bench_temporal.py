"""Temporal attention of SVD and AnimateDiff in bfloat16, at the models' resolutions.

The shape of Wan's grid is among those of ``bench_attention``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..case import Case
from ..suites import integrations

SUITE = "gpu_temporal"
# Channels and positions of 576 x 1024 and of 512 x 512.
_SVD_LEVELS = ((320, 72 * 128), (640, 36 * 64), (1280, 18 * 32))
_ANIMATEDIFF_LEVELS = ((320, 64 * 64), (640, 32 * 32), (1280, 16 * 16))
_svd, _svd_layer, _animatediff = (
    partial(build, dtype=torch.bfloat16, suite=SUITE)
    for build in (integrations.svd_case, integrations.svd_layer_case, integrations.animatediff_case)
)


def cases(small: bool) -> Iterator[Case]:
    """SVD with 14 and 25 frames, its layer with 25, then AnimateDiff."""
    if small:
        yield from (_svd(2, 64, 5), _svd_layer(2, 64, 5), _animatediff(128, 5, times=2))
        return
    yield from (_svd(times, *level) for times in (14, 25) for level in _SVD_LEVELS)
    yield from (_svd_layer(25, *level) for level in _SVD_LEVELS)
    yield from (_animatediff(*level) for level in _ANIMATEDIFF_LEVELS)
