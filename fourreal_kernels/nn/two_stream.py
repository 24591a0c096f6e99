"""One layer of the two-stream architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..grid import TIME, VIEW


class TwoStreamBlock(nn.Module):
    """A transformer block applied to both streams with the same weights, then a synchronisation layer (4Real-Video).

    y_view = block(view, axes="vn"), y_time = block(time, axes="tn"), then ``sync(y_view, y_time)``.

    Args:
        block: any module callable as ``block(x, axes=..., **kwargs)`` on ``(B, V, T, N, C)`` activations. A block with
            a method ``two_stream(view, time, view_kwargs, time_kwargs)`` is called once for both streams instead.
        sync: :class:`HardSync`, :class:`SoftSync` or a module with their signature.
    """

    def __init__(self, block: nn.Module, sync: nn.Module):
        super().__init__()
        self.block = block
        self.sync = sync

    def forward(
        self,
        view: Tensor,
        time: Tensor,
        cond: Tensor | None = None,
        *,
        view_kwargs: Mapping[str, Any] | None = None,
        time_kwargs: Mapping[str, Any] | None = None,
        inplace: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            view, time: the streams, ``(B, V, T, N, C)``.
            cond: ``(B, cond_dim)`` for the synchronisation layer.
            view_kwargs, time_kwargs: further arguments of the block for each stream, such as its context embedding.
            inplace: let the synchronisation write into the block's outputs (only without grad, and only for a block
                that returns new tensors).

        Returns:
            ``(view, time)``.
        """
        view_kwargs, time_kwargs = dict(view_kwargs or {}), dict(time_kwargs or {})
        if hasattr(self.block, "two_stream"):
            view, time = self.block.two_stream(view, time, view_kwargs, time_kwargs)
        else:
            view = self.block(view, axes=VIEW, **view_kwargs)
            time = self.block(time, axes=TIME, **time_kwargs)
        return self.sync(view, time, cond, inplace=inplace)
