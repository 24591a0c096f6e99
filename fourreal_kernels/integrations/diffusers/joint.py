"""What the video transformers with joint text and video attention have in common."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from .grid_angles import GridAngles, GridSizes, OfVideo, StreamAngles
from .installation import Installation
from .joint_streams import FirstTimeForward, JointSequentialForward, JointTwoStreamForward
from .transformers import GRID_HELP, VideoTransformer, argument, with_argument


class JointTransformer(VideoTransformer):
    """The changes to one model whose text and video tokens attend to one another in one softmax.

    What the text does in each mode:

    * ``"time"``: each view has a copy of the text, as it has when the model is run on that view alone.
    * ``"fused"``: one text, which sees all tokens of the grid and is seen by all: the model under a dense mask.
    * ``"two_stream"``: the time stream has a copy of the text for each view, the view stream one for each timestep.
      Each copy attends to the tokens of its line and they to it; synchronisation layers exchange video tokens alone.
      Untrained soft streams are thus the model on each line of the grid.
    * ``"sequential"``: the same copies, while the video goes through both attentions.
    """

    # Dim of the frames in the model's latents, 1 or 2.
    frame_dim: int

    @property
    @abstractmethod
    def patch_sizes(self) -> tuple[int, int]:
        """Of patches over time and over space."""

    def before(self, model: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        latents = argument(args, kwargs, "hidden_states", 0)
        if latents.ndim not in (5, 6):
            layout = "(B, F, C, H, W)" if self.frame_dim == 1 else "(B, C, F, H, W)"
            raise ValueError(
                f"hidden_states: got {latents.ndim} dims with shape {tuple(latents.shape)}, expected a video {layout} "
                f"or a grid; {GRID_HELP}"
            )
        gridded = latents.ndim == 6
        if gridded:
            views = self.views_of_grid(latents)
            latents = latents.transpose(*self._swap).flatten(self.frame_dim, self.frame_dim + 1)
            args, kwargs = with_argument(args, kwargs, "hidden_states", 0, latents)
        else:
            views = self.views_of_video(latents.shape[self.frame_dim], latents.shape)
        times, (patch_time, patch) = latents.shape[self.frame_dim] // views, self.patch_sizes
        if times % patch_time:
            raise ValueError(
                f"hidden_states: got {times} timesteps, expected a multiple of the temporal patch size {patch_time}"
            )
        height, width = (size // patch for size in latents.shape[-2:])
        self.sizes = GridSizes(views, times // patch_time, height, width, gridded)
        return args, kwargs

    def to_grid(self, sample: Tensor) -> Tensor:
        return sample.unflatten(self.frame_dim, (self.sizes.views, -1)).transpose(*self._swap)

    @property
    def _swap(self) -> tuple[int, int]:
        """The dims that change places so that V and T of a grid are next to each other at ``frame_dim``."""
        return (2, 3) if self.frame_dim == 1 else (1, 2)

    def joint_angles(self, text: int, video: OfVideo | None) -> GridAngles | StreamAngles:
        """The angles of L = ``text`` text tokens, which are not rotated, and of the video tokens of a line."""
        angles = self.grid_angles(video)
        if isinstance(angles, StreamAngles):
            return StreamAngles(*(_after_text(text, x) for x in angles))
        return _after_text(text, angles)

    def install_blocks(self, installation: Installation) -> None:
        mode, blocks = self.options.mode, list(self.blocks)
        if mode == "time":
            installation.set_forward(blocks[0], FirstTimeForward(blocks[0].forward).run)
        if mode == "sequential":
            for block in blocks:
                installation.set_forward(block, JointSequentialForward(block.forward).run)
        if mode == "two_stream":
            self.install_streams(installation, JointTwoStreamForward)


def _after_text(text: int, grid: GridAngles) -> GridAngles:
    """Angles ``(b, V or 1, T or 1, N, D / 2)``, if any, to ``(b, 1, 1, L + tokens, D / 2)``."""
    if grid.cos is None:
        return grid
    cos, sin = (x.flatten(1, 3) for x in (grid.cos, grid.sin))
    cos = torch.cat([cos.new_ones(len(cos), text, cos.shape[-1]), cos], dim=1)
    sin = torch.cat([sin.new_zeros(len(sin), text, sin.shape[-1]), sin], dim=1)
    return grid._replace(cos=cos[:, None, None], sin=sin[:, None, None])
