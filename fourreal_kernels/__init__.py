"""Kernels for multi-view video diffusion: attention along the axes of a grid of frames, and the two-stream exchange."""

from .dispatch import available_backends, explain, use_backend
from .grid import TIME, VIEW, VIEW_OR_TIME
from .ops.axis_attention.api import axis_attention, two_stream_attention
from .ops.axis_attention.merge import merge_attention
from .ops.fresh import release_kept_memory
from .ops.qk_norm_rope.api import qk_norm_rope, qk_norm_rope_
from .ops.sync_exchange.api import sync_exchange, sync_exchange_
from .ops.sync_exchange_norm.api import sync_exchange_norm, sync_exchange_norm_
from .version import __version__

__all__ = [
    "TIME",
    "VIEW",
    "VIEW_OR_TIME",
    "__version__",
    "available_backends",
    "axis_attention",
    "explain",
    "merge_attention",
    "qk_norm_rope",
    "qk_norm_rope_",
    "release_kept_memory",
    "sync_exchange",
    "sync_exchange_",
    "sync_exchange_norm",
    "sync_exchange_norm_",
    "two_stream_attention",
    "use_backend",
]
