"""HunyuanVideo (``HunyuanVideoTransformer3DModel``)."""

from __future__ import annotations

from torch import Tensor, nn

from .grid_angles import GridAngles, StreamAngles
from .joint import JointTransformer
from .joint_attention import JointProcessor
from .options import Options
from .transformers import argument, with_argument

_TEXT, _MASK = 2, 3


class HunyuanVideoGrid(JointTransformer):
    """The changes to one ``HunyuanVideoTransformer3DModel``.

    Latents are ``(B, C, F, H, W)`` or ``(B, V, C, T, H, W)``. Text tokens that ``encoder_attention_mask`` leaves out
    are dropped before the model, which gives what the mask gives: no token that is left attends to them.

    Raises:
        NotImplementedError: the model replaces the tokens of a first frame.
    """

    frame_dim = 2

    def __init__(self, model: nn.Module, options: Options):
        super().__init__(model, options)
        self.text = 0  # set by the hook before the model's forward, for the rotary embedding
        if model.config.image_condition_type == "token_replace":
            raise NotImplementedError(
                "model: got a HunyuanVideoTransformer3DModel with image_condition_type='token_replace', whose first "
                "frame is unlike the others, expected None or 'latent_concat'"
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
        text = argument(args, kwargs, "encoder_hidden_states", _TEXT)
        mask = argument(args, kwargs, "encoder_attention_mask", _MASK)
        self.text = _kept(mask)
        args, kwargs = with_argument(args, kwargs, "encoder_hidden_states", _TEXT, text[:, : self.text])
        return with_argument(args, kwargs, "encoder_attention_mask", _MASK, mask[:, : self.text])

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
