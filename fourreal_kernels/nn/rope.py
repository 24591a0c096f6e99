"""Rotary position embedding over a grid of frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..grid import parse_axes


class GridRope(nn.Module):
    """Angles of the rotary embedding for tokens of a grid of frames: (own axis, y, x).

    A third of the channel pairs encodes the position along the attended axis, the rest the token's row and column in
    its frame. The own axis is the view index for view attention, the timestep for time attention, and
    ``view * max_times + time`` when both are attended over, which treats the grid as one long video (4Real-Video-V2,
    fused attention).

    Args:
        head_dim: D, even.
        token_height, token_width: the tokens of a frame, N = token_height * token_width, y-major.
        max_times: factor of the view index in the joint position.
        frame_base, space_base: the slowest wavelengths are about 2 pi times these.
    """

    def __init__(
        self,
        head_dim: int,
        token_height: int,
        token_width: int,
        *,
        max_times: int = 16,
        frame_base: float = 100.0,
        space_base: float = 100.0,
    ):
        super().__init__()
        pairs = head_dim // 2
        if head_dim % 2 or pairs < 3:
            raise ValueError(f"head_dim: got {head_dim}, expected an even number of at least 6")
        self.token_height, self.token_width, self.max_times = token_height, token_width, max_times
        space_pairs = pairs // 3
        self.register_buffer("frame_frequency", _frequencies(pairs - 2 * space_pairs, frame_base), persistent=False)
        self.register_buffer("space_frequency", _frequencies(space_pairs, space_base), persistent=False)

    def forward(self, axes: str, views: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the angles.

        Args:
            axes: the axes attended over.
            views: ``(V,)`` view index of each view (not necessarily 0..V-1).
            times: ``(T,)`` index of each timestep.

        Returns:
            ``(cos, sin)``, each ``(V, T, N, D/2)`` float32.
        """
        frame = self._frame_position(axes, views, times)
        rows = torch.arange(self.token_height, device=views.device, dtype=torch.float32)
        columns = torch.arange(self.token_width, device=views.device, dtype=torch.float32)
        y = rows[:, None].expand(-1, self.token_width).reshape(-1)
        x = columns[None, :].expand(self.token_height, -1).reshape(-1)
        shape = (*frame.shape, y.numel())
        angles = torch.cat(
            [
                (frame[..., None, None] * self.frame_frequency).expand(*shape, -1),
                (y[:, None] * self.space_frequency).expand(*shape, -1),
                (x[:, None] * self.space_frequency).expand(*shape, -1),
            ],
            dim=-1,
        )
        return angles.cos(), angles.sin()

    def _frame_position(self, axes: str, views: Tensor, times: Tensor) -> Tensor:
        letters = set("".join(parse_axes(axes).groups))
        view, time = views.float()[:, None], times.float()[None, :]
        size = (views.numel(), times.numel())
        if letters >= {"v", "t"}:
            return view * self.max_times + time
        if "v" in letters:
            return view.expand(size)
        if "t" in letters:
            return time.expand(size)
        return torch.zeros(size, device=views.device)


def _frequencies(count: int, base: float) -> Tensor:
    return base ** -(torch.arange(count, dtype=torch.float32) / max(count, 1))
