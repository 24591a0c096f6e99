"""``apply_to`` and ``remove_from``."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from .installation import Installation, installation_of
from .options import Options

# Class of diffusers -> module and class here. By name, so that nothing is imported for models that are not used.
_SUPPORTED = {
    "WanTransformer3DModel": ("wan", "WanGrid"),
    "LTXVideoTransformer3DModel": ("ltx", "LTXGrid"),
    "CogVideoXTransformer3DModel": ("cogvideox", "CogVideoXGrid"),
    "HunyuanVideoTransformer3DModel": ("hunyuan_video", "HunyuanVideoGrid"),
    "UNetSpatioTemporalConditionModel": ("temporal", "SpatioTemporalTime"),
    "UNetMotionModel": ("temporal", "AnimateDiffTime"),
}


def apply_to(
    model: nn.Module,
    mode: str = "time",
    *,
    views: int | None = None,
    max_times: int | None = None,
    sync: str = "soft",
    sync_cond_dim: int = 64,
    sync_per_channel: bool = False,
    output: str = "mean",
    backend: str | None = None,
) -> None:
    """Make a video diffusion model of diffusers attend along the axes of a grid of V views x T timesteps, in place.

    The model keeps its class, its weights and their names; :func:`remove_from` undoes everything. Latents may then be
    grids ``(B, V, C, T, H, W)``, and the result is one, or, with ``views=V``, videos whose V * T frames are those of
    view 0, then those of view 1 and so on, as a pipeline passes them. Text and diffusion time are per sample.

    Modes:

    * ``"time"``: each view is a video of its own: the model's own function, by this library's attention.
    * ``"sequential"``: every block runs twice, with view attention and then with time attention (the baseline of
      4Real-Video).
    * ``"fused"``: tokens attend to those of the same view or the same timestep in one softmax, axes ``"vn|tn"``, and
      the rotary position of a frame is v * max_times + t (4Real-Video-V2). No new weights.
    * ``"two_stream"``: view attention on one copy of the tokens and time attention on another, both through the same
      blocks, which are frozen, with a synchronisation layer after each block (4Real-Video). Only
      :func:`sync_layers` is trainable.

    Where text and video share one softmax (CogVideoX, HunyuanVideo), every view, or timestep, that is attended over by
    itself has a copy of the text, as a video of its own has; in mode ``"fused"`` one text sees the whole grid and is
    seen by all of it.

    Args:
        model: ``WanTransformer3DModel``, ``LTXVideoTransformer3DModel``, ``CogVideoXTransformer3DModel`` or
            ``HunyuanVideoTransformer3DModel``; for mode ``"time"`` alone, HunyuanVideo with ``"token_replace"`` and
            ``UNetSpatioTemporalConditionModel`` (SVD) or ``UNetMotionModel`` (AnimateDiff), whose temporal attention
            is pointwise and which are called as before.
        mode: one of the above.
        views: V of latents that are not 6-D; in mode ``"time"`` 1 when None.
        max_times: factor of the view index in the position of mode ``"fused"``, and of mode ``"sequential"`` where the
            model adds positions to its tokens (CogVideoX-2B); T when None.
        sync: ``"soft"`` (starts as two uncoupled streams) or ``"hard"`` (starts as the plain average).
        sync_cond_dim: width of the conditioning of the synchronisation layers, made from the model's time modulation.
        sync_per_channel: one weight per channel instead of dense matrices.
        output: what follows the last block of mode ``"two_stream"``: the ``"mean"`` of the streams, ``"view"`` or
            ``"time"``.
        backend: of :func:`fourreal_kernels.axis_attention`; None takes the fastest.

    Raises:
        NotImplementedError: the model or the mode is not supported.
        TypeError, ValueError: a bad argument, or the model has been changed before. The model is as it was.
    """
    family = _family(model)
    options = Options(mode, views, max_times, sync, sync_cond_dim, sync_per_channel, output, backend)
    if mode not in family.modes:
        raise NotImplementedError(
            f"mode: got {mode!r}, but {type(model).__name__} supports {', '.join(map(repr, family.modes))}"
        )
    applied = installation_of(model)
    if applied is not None:
        raise ValueError(f"model: mode {applied.mode!r} is applied to it already; call remove_from(model) first")
    changes, installation = family(model, options), Installation(model, mode)
    try:
        changes.install(installation)
    except BaseException:
        installation.undo()
        raise


def remove_from(model: nn.Module) -> None:
    """Undo :func:`apply_to`: processors, forwards, hooks and which weights require a gradient are as before.

    Synchronisation layers are dropped; :func:`save_sync` keeps them.

    Raises:
        ValueError: nothing is applied to the model.
    """
    applied = installation_of(model)
    if applied is None:
        raise ValueError(f"model: nothing is applied to this {type(model).__name__}; apply_to(model, mode) does")
    applied.undo()


def _family(model: nn.Module) -> type:
    for cls in type(model).__mro__:
        if cls.__name__ in _SUPPORTED and cls.__module__.startswith("diffusers."):
            module, name = _SUPPORTED[cls.__name__]
            return getattr(import_module(f".{module}", __package__), name)
    got = type(model).__name__
    raise NotImplementedError(f"model: got {got}, expected one of {', '.join(_SUPPORTED)} of diffusers; {_hint(got)}")


def _hint(got: str) -> str:
    if got == "OptimizedModule":
        return "apply_to takes the model before torch.compile"
    return "docs/drop-in.md shows how to call the operators in other models"
