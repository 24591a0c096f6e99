"""Position embeddings that CogVideoX adds to its tokens (CogVideoX-2B: sin and cos; 5B image to video: learned)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...grid import TIME, VIEW, VIEW_OR_TIME
from .grid_angles import GridSizes, frames_of_grid, spacing_of_views
from .installation import Installation

_FLAGS = ("use_positional_embeddings", "use_learned_positional_embeddings")


def adds_positions(embed: nn.Module) -> bool:
    """Whether a ``CogVideoXPatchEmbed`` adds positions to its tokens."""
    return any(getattr(embed, flag) for flag in _FLAGS)


class AddedPositions:
    """The positions of one model, for the frames of a grid.

    A token is given its position once, before the blocks:

    * ``"time"``: that of its timestep, as in a video of each view.
    * ``"fused"`` and ``"sequential"``: v * max_times + t, as in one long video of the grid, which tells all frames
      apart.
    * ``"two_stream"``: each stream has its own: that of the view, and that of the timestep.

    Args:
        embed: the model's ``CogVideoXPatchEmbed``.
        mode, max_times: of ``apply_to``.
    """

    def __init__(self, embed: nn.Module, mode: str, max_times: int | None):
        self.embed = embed
        self.max_times = max_times
        self.axes = {"time": (TIME,), "two_stream": (VIEW, TIME)}.get(mode, (VIEW_OR_TIME,))
        self.learned = embed.use_learned_positional_embeddings

    def install(self, installation: Installation) -> None:
        """Let the patch embedding add none of its own."""
        for flag in _FLAGS:
            installation.set_attribute(self.embed, flag, False)

    def add(self, tokens: Tensor, text: int, sizes: GridSizes) -> Tensor:
        """Text and video tokens with their positions.

        Args:
            tokens: ``(B, L + V*T*N, C)`` without positions.
            text: L.
            sizes: of the grid.

        Returns:
            ``(B, L + V*T*N, C)``; in mode ``"two_stream"`` ``(B, L + 2*V*T*N, C)``: text, the tokens of the view
            stream, then those of the time stream.

        Raises:
            ValueError: L or the size of a frame is not what the positions are made for; ``max_times`` is less than T.
        """
        self._check(text, sizes)
        frame = sizes.height * sizes.width

        def video(frames: int) -> tuple[Tensor]:
            return (self._of_video(frames, sizes, tokens)[:, text:].unflatten(1, (frames, frame)),)

        spacing = spacing_of_views(sizes, self.max_times) if VIEW_OR_TIME in self.axes else sizes.times
        grids = [frames_of_grid(axes, sizes, spacing, video)[0] for axes in self.axes]
        grids = [x.expand(-1, sizes.views, sizes.times, -1, -1).flatten(1, 3) for x in grids]
        positions = torch.cat([self._of_video(sizes.times, sizes, tokens)[:, :text], *grids], dim=1)
        if len(grids) == 2:
            tokens = torch.cat([tokens, tokens[:, text:]], dim=1)
        return tokens + positions

    def _of_video(self, frames: int, sizes: GridSizes, like: Tensor) -> Tensor:
        """What the model adds to a video of that many frames, ``(1, L + frames*N, C)``, in the dtype of ``like``."""
        embed = self.embed
        height, width = sizes.height * embed.patch_size, sizes.width * embed.patch_size
        frames = (frames - 1) * embed.temporal_compression_ratio + 1
        if (height, width, frames) == (embed.sample_height, embed.sample_width, embed.sample_frames):
            return embed.pos_embedding.to(like)
        return embed._get_positional_embeddings(height, width, frames, device=like.device).to(like)

    def _check(self, text: int, sizes: GridSizes) -> None:
        embed = self.embed
        if text != embed.max_text_seq_length:
            raise ValueError(
                f"encoder_hidden_states: got {text} text tokens, expected the {embed.max_text_seq_length} of "
                "max_text_seq_length, for which the model has positions; pad the text, as the pipeline does"
            )
        got = (sizes.height * embed.patch_size, sizes.width * embed.patch_size)
        if self.learned and got != (embed.sample_height, embed.sample_width):
            raise ValueError(
                f"hidden_states: got latents of {got[0]} x {got[1]}, expected {embed.sample_height} x "
                f"{embed.sample_width} (sample_height, sample_width), for which the model's positions are learned"
            )
