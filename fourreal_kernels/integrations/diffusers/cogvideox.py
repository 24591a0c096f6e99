"""CogVideoX (``CogVideoXTransformer3DModel``)."""

from __future__ import annotations

from torch import Tensor, nn

from .cogvideox_positions import AddedPositions, adds_positions
from .grid_angles import GridAngles, StreamAngles
from .installation import Installation
from .joint import JointTransformer
from .joint_attention import JointProcessor
from .options import Options
from .transformers import argument, with_argument

_ROTARY = 5


class CogVideoXGrid(JointTransformer):
    """The changes to one ``CogVideoXTransformer3DModel``.

    Latents are ``(B, F, C, H, W)`` or ``(B, V, C, T, H, W)``. ``image_rotary_emb`` is that of one video with at least
    as many frames as the grid has positions in time (V * T; V * max_times in fused mode), as the pipeline makes it;
    models that add positions to their tokens alone (CogVideoX-2B) need none.
    """

    frame_dim = 1

    def __init__(self, model: nn.Module, options: Options):
        super().__init__(model, options)
        embed = model.patch_embed
        adds = adds_positions(embed)
        self.positions = AddedPositions(embed, options.mode, options.max_times) if adds else None

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.transformer_blocks

    @property
    def tokens_weight(self) -> Tensor:
        return self.model.patch_embed.proj.weight

    @property
    def temb_dim(self) -> int:
        return self.model.config.time_embed_dim

    @property
    def processor(self) -> JointProcessor:
        return JointProcessor(self.options.backend, obeys_fusion=True)

    @property
    def patch_sizes(self) -> tuple[int, int]:
        return self.model.config.patch_size_t or 1, self.model.config.patch_size

    @staticmethod
    def temb_of(temb: Tensor) -> Tensor:
        return temb

    def streams_of(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return super().streams_of(tokens) if self.positions is None else tokens.chunk(2, dim=1)

    def install(self, installation: Installation) -> None:
        super().install(installation)
        if self.positions is not None:
            self.positions.install(installation)
            installation.add_hook(self.model.patch_embed.register_forward_hook(self.add_positions))

    def add_positions(self, embed: nn.Module, args: tuple, tokens: Tensor) -> Tensor:
        """Forward hook of the patch embedding, whose first argument is the text."""
        return self.positions.add(tokens, args[0].shape[1], self.sizes)

    def before(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        args, kwargs = super().before(model, args, kwargs)
        text = argument(args, kwargs, "encoder_hidden_states", 1).shape[1]
        given = args[_ROTARY] if len(args) > _ROTARY else kwargs.get("image_rotary_emb")
        return with_argument(args, kwargs, "image_rotary_emb", _ROTARY, self.angles(given, text))

    def angles(self, given: tuple[Tensor, Tensor] | None, text: int) -> GridAngles | StreamAngles:
        """The angles of the grid.

        Args:
            given: the caller's ``image_rotary_emb``, cos and sin ``(F*H*W, D)``.
            text: number of text tokens.

        Raises:
            ValueError: there are none and the model has no other positions, or for too few frames.
        """
        if given is None and not self.model.config.use_rotary_positional_embeddings:
            return self.joint_angles(text, None)
        tokens = self.sizes.height * self.sizes.width

        def video(frames: int) -> tuple[Tensor, Tensor]:
            rows = None if given is None else len(given[0])
            if rows is None or rows < frames * tokens:
                raise ValueError(
                    f"image_rotary_emb: got {'None' if rows is None else f'{rows} rows'}, expected (cos, sin) of at "
                    f"least {frames} frames of {tokens} tokens: that of one video with all V * T frames of the grid "
                    "after patches (V * max_times with max_times), as the pipeline makes it"
                )
            # The model stores each angle twice, once per channel of a pair.
            return tuple(x[None, : frames * tokens, 0::2].unflatten(1, (frames, -1)) for x in given)

        return self.joint_angles(text, video)
