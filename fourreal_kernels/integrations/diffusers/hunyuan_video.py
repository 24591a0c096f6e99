"""HunyuanVideo (``HunyuanVideoTransformer3DModel``)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from .grid_angles import GridAngles, StreamAngles
from .joint import JointTransformer
from .joint_attention import JointProcessor
from .options import Options
from .transformers import argument, with_argument

_TEXT, _MASK = 2, 3
_PER_SAMPLE = {
    "timestep": 1, "encoder_hidden_states": _TEXT, "encoder_attention_mask": _MASK, "pooled_projections": 4,
    "guidance": 5,
}


class HunyuanVideoGrid(JointTransformer):
    """The changes to one ``HunyuanVideoTransformer3DModel``.

    Latents are ``(B, C, F, H, W)`` or ``(B, V, C, T, H, W)``. Text tokens that ``encoder_attention_mask`` leaves out
    are dropped before the model, which gives what the mask gives: no token that is left attends to them.

    With ``image_condition_type="token_replace"`` (image to video) the blocks take the first frame of each sample for a
    given image: every view becomes a sample of its own.

    Raises:
        NotImplementedError: such a model in another mode than ``"time"``.
    """

    frame_dim = 2

    def __init__(self, model: nn.Module, options: Options):
        super().__init__(model, options)
        # Set by the hook before the model's forward, for the rotary embedding and the hook after it.
        self.text, self.samples_per_grid = 0, 1
        self.first_frame_given = model.config.image_condition_type == "token_replace"
        if self.first_frame_given and options.mode != "time":
            raise NotImplementedError(
                f"mode: got {options.mode!r}, but a HunyuanVideoTransformer3DModel with image_condition_type="
                "'token_replace' supports 'time' alone: its blocks take the first frame of a video for a given image, "
                "which the first view of a timestep is not; use a model with None or 'latent_concat'"
            )

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.model.transformer_blocks, *self.model.single_transformer_blocks]

    @property
    def tokens_weight(self) -> Tensor:
        return self.model.x_embedder.proj.weight

    @property
    def temb_dim(self) -> int:
        return self.tokens_weight.shape[0]

    @property
    def processor(self) -> JointProcessor:
        return JointProcessor(self.options.backend)

    @property
    def patch_sizes(self) -> tuple[int, int]:
        return self.model.config.patch_size_t, self.model.config.patch_size

    @staticmethod
    def temb_of(temb: Tensor) -> Tensor:
        return temb

    def attention_of(self, block: nn.Module) -> nn.Module:
        return block.attn

    def before(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        args, kwargs = super().before(model, args, kwargs)
        if self.first_frame_given:
            args, kwargs = self._views_as_samples(args, kwargs)
        # With channels last in the latents the patch convolution writes tokens as the blocks' norms and the
        # synchronisation layers read them.
        latents = argument(args, kwargs, "hidden_states", 0).to(memory_format=torch.channels_last_3d)
        args, kwargs = with_argument(args, kwargs, "hidden_states", 0, latents)
        text = argument(args, kwargs, "encoder_hidden_states", _TEXT)
        mask = argument(args, kwargs, "encoder_attention_mask", _MASK)
        self.text = _kept(mask)
        args, kwargs = with_argument(args, kwargs, "encoder_hidden_states", _TEXT, text[:, : self.text])
        return with_argument(args, kwargs, "encoder_attention_mask", _MASK, mask[:, : self.text])

    def _views_as_samples(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The call with ``(B * V, C, T, H, W)`` and, for each view, what its sample has."""
        views = self.samples_per_grid = self.sizes.views
        self.sizes = replace(self.sizes, views=1)
        latents = argument(args, kwargs, "hidden_states", 0).unflatten(2, (views, -1)).transpose(1, 2).flatten(0, 1)
        args, kwargs = with_argument(args, kwargs, "hidden_states", 0, latents)
        for name, position in _PER_SAMPLE.items():
            given = kwargs.get(name, args[position] if position < len(args) else None)
            if given is not None:
                args, kwargs = with_argument(args, kwargs, name, position, given.repeat_interleave(views, 0))
        return args, kwargs

    def as_given(self, sample: Tensor) -> Tensor:
        if not self.first_frame_given:
            return super().as_given(sample)
        grid = sample.unflatten(0, (-1, self.samples_per_grid))
        return grid if self.sizes.gridded else grid.transpose(1, 2).flatten(2, 3)

    def streams_of(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        # Convolutions of float16 and float64 on the CPU do not follow the layout of the latents.
        tokens = tokens if tokens.stride(-1) == 1 else tokens.clone(memory_format=torch.contiguous_format)
        return tokens, tokens

    def angles(self, hidden_states: Tensor) -> GridAngles | StreamAngles:
        patch = self.model.config.patch_size_t
        shape = hidden_states.shape

        def video(frames: int) -> tuple[Tensor, Tensor]:
            angles = self.rope_forward(hidden_states.new_empty(()).expand(*shape[:2], frames * patch, *shape[3:]))
            # The model stores each angle twice, once per channel of a pair.
            return tuple(x[None, :, 0::2].unflatten(1, (frames, -1)) for x in angles)

        return self.joint_angles(self.text, video)


def _kept(mask: Tensor) -> int:
    """How many text tokens ``(B, L)`` leaves in, which are the first ones and as many in each sample.

    Raises:
        ValueError: the mask is another one.
    """
    given = mask.bool()
    lengths = given.sum(1).unique().tolist()
    if len(lengths) != 1 or lengths[0] < 1 or not given[:, : lengths[0]].all():
        raise ValueError(
            f"encoder_attention_mask: got a mask of shape {tuple(mask.shape)} that leaves in {lengths} text tokens, "
            "expected at least one, the first ones, and as many in each sample; pass samples whose texts differ in "
            "length one at a time"
        )
    return lengths[0]
