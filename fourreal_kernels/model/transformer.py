"""The reference model: a pixel-space diffusion transformer over a grid of frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..grid import TIME, VIEW, VIEW_OR_TIME
from ..nn import GridRope, HardSync, SoftSync, TwoStreamBlock
from .adapter import StreamAdapter
from .alignment import EVIDENCE_CHANNELS, Alignment, align, unaligned
from .blocks import GridBlock, PatchEmbedding, SigmaEmbedding
from .conditioning import Sources, nearest_sources, select_frames
from .config import GridConfig
from .heads import DirectHead, GridPrediction, WarpHead

STREAMS = ("both", "view", "time")

# Frames of a grid whose colours are computed together where there are no gradients: few enough for the head's pixels to
# stay in the cache.
_HEAD_FRAMES = 14


@dataclass(frozen=True)
class Prepared:
    """What a model takes from the given frames of a grid, the same for every sigma.

    Attributes:
        sources, alignment: the nearest given frames, where they are and displaced.
        tokens: ``(B, V, T, N, C)`` their share of the embedded tokens, by the weights of that moment; None where it is
            computed with the rest of the tokens.
    """

    sources: Sources
    alignment: Alignment
    tokens: Tensor | None


class GridTransformer(nn.Module):
    """Predicts the clean frames of a grid from noisy ones, given any subset of clean frames.

    The base (embeddings, blocks, head) is the same in all modes, so that the same weights run as two streams with
    hard or soft synchronisation, as one sequential stream, or with fused attention. The output of two streams is their
    mean after the last synchronisation. These choices, and adaLN modulation by sigma, are ours: the paper does not
    publish them. Tokens carry a learned position in the frame besides the rotary embedding, so that attention can hand
    on where a match was found.

    Args:
        config: sizes and mode.
    """

    def __init__(self, config: GridConfig):
        super().__init__()
        self.config = config
        channels = 12 + EVIDENCE_CHANNELS if config.source_input else 3
        self.embed = PatchEmbedding(channels, config.dim, config.patch)
        tokens = config.token_height * config.token_width
        self.position_embedding = nn.Parameter(torch.randn(tokens, config.dim) * 0.02)
        self.given_embedding = nn.Parameter(torch.randn(2, config.dim) * 0.02)
        self.sigma_embedding = SigmaEmbedding(config.dim)
        self.context_embedding = nn.Parameter(torch.randn(2, config.dim) * 0.02)
        self.modulation = nn.Linear(config.dim, 6 * config.dim)
        self.rope = GridRope(
            config.dim // config.heads, config.token_height, config.token_width, max_times=config.times
        )
        self.blocks = nn.ModuleList(
            [GridBlock(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth)]
        )
        self.final_modulation = nn.Linear(config.dim, 2 * config.dim)
        sizes = (config.dim, config.patch, config.head_features)
        self.head = WarpHead(*sizes, config.mix_sharpness) if config.head == "warp" else DirectHead(*sizes)
        for layer in (self.modulation, self.final_modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self._add_sync()

    def _add_sync(self) -> None:
        config = self.config
        if not config.has_sync:
            return
        self.sync_cond = nn.Linear(config.dim, config.sync_cond_dim)
        if config.adapters:
            self.sync = nn.ModuleList([StreamAdapter(config.dim, config.sync_cond_dim) for _ in self.blocks])
            return
        kind = SoftSync if config.mode == "two_stream_soft" else HardSync
        self.sync = nn.ModuleList(
            [kind(config.dim, config.sync_cond_dim, per_channel=config.sync_per_channel) for _ in self.blocks]
        )
        # A tuple, not a module list: the blocks and syncs keep one name each in the state dict.
        self._layers = tuple(TwoStreamBlock(*layer) for layer in zip(self.blocks, self.sync, strict=True))

    def sync_parameters(self) -> list[nn.Parameter]:
        """The parameters beside the base, all that the paper's second phase trains: synchronisation or adapters."""
        if not self.config.has_sync:
            return []
        return [*self.sync_cond.parameters(), *self.sync.parameters()]

    def compile_layers(self) -> None:
        """Compile the layers in place, at their first call with each shape; names in the state dict stay."""
        for module in (*self.blocks, *getattr(self, "_layers", ())):
            module.compile(dynamic=False)

    def forward(
        self,
        frames: Tensor,
        given: Tensor,
        sigma: Tensor,
        *,
        streams: str = "both",
        view_index: Tensor | None = None,
        time_index: Tensor | None = None,
        prepared: Prepared | None = None,
        only_missing: bool = False,
    ) -> GridPrediction:
        """Predict the clean frames.

        Args:
            frames: ``(B, V, T, 3, H, W)`` in [-1, 1]: clean where given, else (1 - sigma) * clean + sigma * noise.
            given: ``(B, V, T)`` bool.
            sigma: ``(B,)`` in [0, 1].
            streams: ``"both"`` for a grid; ``"view"`` or ``"time"`` runs the base alone on one stream, as a video model
                of freeze-time or fixed-view videos.
            view_index, time_index: ``(V,)`` and ``(T,)`` positions of the frames; 0, 1, ... when None.
            prepared: what :meth:`prepare` returned for these given frames; computed when None.
            only_missing: leave out the head where frames are given; the result repeats those and has no flows.

        Returns:
            the prediction for every frame.
        """
        self._check(frames, given, sigma, streams)
        _check_index("view_index", view_index, frames.shape[1])
        _check_index("time_index", time_index, frames.shape[2])
        device = frames.device
        views = torch.arange(frames.shape[1], device=device) if view_index is None else view_index
        times = torch.arange(frames.shape[2], device=device) if time_index is None else time_index
        if prepared is None:
            prepared = self._prepare(frames, given, embed=not torch.is_grad_enabled())
        sources, alignment = prepared.sources, prepared.alignment
        tokens = self._embed(frames, given, prepared)
        cond = self.sigma_embedding(sigma.to(tokens.dtype))
        tokens = self._run(tokens, cond, streams, views, times)
        shift, scale = self.final_modulation(nn.functional.silu(cond))[:, None, None, None].chunk(2, dim=-1)
        tokens = nn.functional.layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift
        if only_missing:
            return self._predict_missing(tokens, frames, ~given, sources, alignment)
        return self.head(tokens, frames, sources, alignment)

    def _predict_missing(
        self, tokens: Tensor, frames: Tensor, missing: Tensor, sources: Sources, alignment: Alignment
    ) -> GridPrediction:
        where = missing.nonzero(as_tuple=True)
        count = max(1, len(where[0])) if torch.is_grad_enabled() else _HEAD_FRAMES
        predicted = []
        for part in zip(*(index.split(count) for index in where), strict=True):
            inputs = (x[part][None, None] for x in (tokens, frames))
            selected = (select_frames(record, part) for record in (sources, alignment))
            predicted.append(self.head(*inputs, *selected).frames)
        return GridPrediction(frames.masked_scatter(missing[..., None, None, None], torch.cat(predicted, dim=2)))

    def prepare(self, frames: Tensor, given: Tensor) -> Prepared:
        """What the model takes from the given frames alone, the same for every sigma.

        Args:
            frames, given: as for :meth:`forward`.
        """
        return self._prepare(frames, given, embed=True)

    @torch.no_grad()
    def _prepare(self, frames: Tensor, given: Tensor, embed: bool) -> Prepared:
        sources = nearest_sources(frames, given)
        alignment = align(frames, given, sources) if self.config.matching else unaligned(sources)
        tokens = self.embed.rest(_shown(sources, alignment)) if embed and self.config.source_input else None
        return Prepared(sources, alignment, tokens)

    def _check(self, frames: Tensor, given: Tensor, sigma: Tensor, streams: str) -> None:
        expected = (3, self.config.height, self.config.width)
        if frames.ndim != 6 or tuple(frames.shape[3:]) != expected:
            raise ValueError(f"frames: got shape {tuple(frames.shape)}, expected (B, V, T, *{expected})")
        if given.shape != frames.shape[:3] or given.dtype != torch.bool:
            raise ValueError(
                f"given: got shape {tuple(given.shape)} and dtype {given.dtype}, "
                f"expected {tuple(frames.shape[:3])} and torch.bool"
            )
        if sigma.shape != frames.shape[:1]:
            raise ValueError(f"sigma: got shape {tuple(sigma.shape)}, expected {tuple(frames.shape[:1])}")
        if streams not in STREAMS:
            raise ValueError(f"streams: got {streams!r}, expected one of {', '.join(STREAMS)}")

    def _embed(self, frames: Tensor, given: Tensor, prepared: Prepared) -> Tensor:
        added = self.given_embedding[given.long()][..., None, :] + self.position_embedding
        if prepared.tokens is not None and not torch.is_grad_enabled():
            return self.embed.first(frames) + prepared.tokens + added
        if self.config.source_input:
            frames = torch.cat([frames, _shown(prepared.sources, prepared.alignment)], dim=3)
        return self.embed(frames) + added

    def _run(self, x: Tensor, cond: Tensor, streams: str, views: Tensor, times: Tensor) -> Tensor:
        """Embedded tokens through the blocks, in the dtype of the blocks' weights, which a training may lower."""
        outer, inner = x.dtype, self.blocks[0].table.dtype
        return self._run_blocks(x.to(inner), cond, streams, views, times).to(outer)

    def _run_blocks(self, x: Tensor, cond: Tensor, streams: str, views: Tensor, times: Tensor) -> Tensor:
        arguments = {
            name: {"modulation": self._modulation(cond, context).to(x.dtype), "angles": self.rope(axes, views, times)}
            for name, axes, context in (
                ("view", VIEW, self.context_embedding[0]),
                ("time", TIME, self.context_embedding[1]),
                ("fused", VIEW_OR_TIME, self.context_embedding.mean(0)),
            )
        }
        if streams != "both":
            axes = VIEW if streams == "view" else TIME
            return self._run_single(x, [(axes, arguments[streams])])
        if self.config.mode == "sequential":
            return self._run_single(x, [(VIEW, arguments["view"]), (TIME, arguments["time"])], cond)
        if self.config.mode == "fused":
            return self._run_single(x, [(VIEW_OR_TIME, arguments["fused"])], cond)
        return self._run_two_stream(x, cond, arguments["view"], arguments["time"])

    def _modulation(self, cond: Tensor, context: Tensor) -> Tensor:
        return self.modulation(nn.functional.silu(cond + context)).unflatten(-1, (6, -1))

    def _run_single(self, x: Tensor, passes: list[tuple[str, dict]], cond: Tensor | None = None) -> Tensor:
        """One stream; with ``cond`` through the adapters, without (the base alone) past them."""
        adapters: list = [None] * len(self.blocks)
        if cond is not None and self.config.adapters:
            cond, adapters = self.sync_cond(nn.functional.silu(cond)).to(x.dtype), list(self.sync)
        for block, adapter in zip(self.blocks, adapters, strict=True):
            for axes, arguments in passes:
                x = block(x, axes=axes, **arguments)
            if adapter is not None:
                x = adapter(x, cond)
        return x

    def _run_two_stream(self, x: Tensor, cond: Tensor, view_kwargs: dict, time_kwargs: dict) -> Tensor:
        view = time = x
        sync_cond = self.sync_cond(nn.functional.silu(cond)).to(view.dtype)
        # After a hard synchronisation the streams are equal: one buffer serves both, and the next block's norm too.
        hard = self.config.mode == "two_stream_hard"
        for layer in self._layers:
            view, time = layer(
                view, time, sync_cond, view_kwargs=view_kwargs, time_kwargs=time_kwargs,
                inplace=not torch.is_grad_enabled(),
            )
            time = view if hard else time
        return view if hard else (view + time) / 2


def _shown(sources: Sources, alignment: Alignment) -> Tensor:
    """What tokens see of the given frames beside their own frame: ``(B, V, T, 9 + EVIDENCE_CHANNELS, H, W)``."""
    return torch.cat([alignment.same_view, alignment.same_time, sources.same_view, alignment.evidence()], dim=3)


def _check_index(name: str, index: Tensor | None, count: int) -> None:
    if index is not None and tuple(index.shape) != (count,):
        raise ValueError(f"{name}: got shape {tuple(index.shape)}, expected ({count},)")
