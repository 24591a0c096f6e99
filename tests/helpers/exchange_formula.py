"""The exchange as one matrix product over concatenated channels, and arguments for its tests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

KINDS = ("hard", "soft")
FORMS = ("dense", "per channel")
OPTIONS = ("bias", "input_scale", "gate")


def option_sets() -> Iterator[tuple[str, ...]]:
    """Every subset of the optional arguments."""
    for chosen in product((False, True), repeat=3):
        yield tuple(name for name, wanted in zip(OPTIONS, chosen, strict=True) if wanted)


def option_name(value: object) -> str | None:
    return "+".join(value) or "none" if isinstance(value, tuple) else None


def exchange_arguments(
    shape: tuple[int, ...], kind: str, form: str, options: tuple[str, ...] = OPTIONS,
    dtype: torch.dtype = torch.float32,
) -> tuple[tuple[Tensor, ...], dict]:
    """Positional and keyword arguments of ``sync_exchange`` for streams of ``shape``."""
    batch, channels = shape[0], shape[-1]
    outputs = channels if kind == "hard" else 2 * channels

    def random(*size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64).to(dtype)

    if form == "dense":
        weight = random(outputs, 2 * channels) / channels**0.5
    else:
        weight = random(2, channels) if kind == "hard" else random(2, 2, channels)
    optional = {"bias": random(outputs), "input_scale": random(batch, 2 * channels), "gate": random(batch, outputs)}
    keywords = {name: x if name in options else None for name, x in optional.items()}
    bias = keywords.pop("bias")
    return (random(*shape), random(*shape), weight, bias), {"kind": kind, **keywords}


def as_dense(weight: Tensor, kind: str, channels: int) -> Tensor:
    """A per-channel weight as the dense matrix with diagonal blocks."""
    if weight.shape[-1] == 2 * channels:
        return weight
    blocks = weight.view(-1, 2, channels)
    return torch.cat([torch.cat([torch.diag(w) for w in row], dim=1) for row in blocks], dim=0)


def plain_exchange(
    view: Tensor, time: Tensor, weight: Tensor, bias: Tensor | None, *, kind: str,
    input_scale: Tensor | None = None, gate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The formula of the contract in the dtype of the inputs; differentiable."""
    batch, channels = view.shape[0], view.shape[-1]
    per_sample = (batch, *[1] * (view.ndim - 2), -1)
    z = torch.cat([view, time], dim=-1)
    if input_scale is not None:
        z = z * input_scale.view(per_sample)
    y = z @ as_dense(weight, kind, channels).T
    if bias is not None:
        y = y + bias
    if gate is not None:
        y = y * gate.view(per_sample)
    if kind == "hard":
        return y, y.clone()
    return view + y[..., :channels], time + y[..., channels:]


def cast(arguments: tuple[Tensor | None, ...], keywords: dict, dtype: torch.dtype) -> tuple[tuple, dict]:
    """The same arguments in another dtype."""
    return (
        tuple(None if x is None else x.to(dtype) for x in arguments),
        {name: x.to(dtype) if isinstance(x, Tensor) else x for name, x in keywords.items()},
    )


NORM_OPTIONS = (*OPTIONS, "branch_gate")


def norm_option_sets() -> Iterator[tuple[str, ...]]:
    """Every subset of the optional arguments of ``sync_exchange_norm``."""
    for options in option_sets():
        yield from (options, (*options, "branch_gate"))


def exchange_norm_arguments(
    shape: tuple[int, ...], kind: str, form: str, options: tuple[str, ...] = NORM_OPTIONS,
    dtype: torch.dtype = torch.float32,
) -> tuple[tuple[Tensor, ...], dict]:
    """Positional and keyword arguments of ``sync_exchange_norm`` for streams of ``shape``."""
    (view, time, weight, bias), keywords = exchange_arguments(shape, kind, form, options, dtype)
    batch, channels = shape[0], shape[-1]
    branches = [torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(2)]
    per_sample = [torch.randn(batch, 2 * channels, dtype=torch.float64).to(dtype) for _ in range(3)]
    keywords |= {"branch_gate": per_sample[0] if "branch_gate" in options else None,
                 "norm_scale": per_sample[1], "norm_shift": per_sample[2]}
    return (view, time, *branches, weight, bias), keywords


def plain_exchange_norm(
    view: Tensor, time: Tensor, view_branch: Tensor, time_branch: Tensor, weight: Tensor, bias: Tensor | None, *,
    kind: str, input_scale: Tensor | None = None, gate: Tensor | None = None, branch_gate: Tensor | None = None,
    norm_scale: Tensor, norm_shift: Tensor, eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The definition of the fused exchange in the dtype of the inputs, with torch's own LayerNorm; differentiable."""
    channels = view.shape[-1]
    per_sample = (view.shape[0], *[1] * (view.ndim - 2), -1)
    streams = torch.stack([view, time])
    branches = torch.stack([view_branch, time_branch])
    if branch_gate is not None:
        halves = branch_gate.view(-1, 2, channels).unbind(1)
        branches = branches * torch.stack([half.view(per_sample) for half in halves])
    exchanged = plain_exchange(*(streams + branches), weight, bias, kind=kind, input_scale=input_scale, gate=gate)
    norms = []
    for index, x in enumerate(exchanged):
        own = slice(index * channels, (index + 1) * channels)
        normalised = torch.nn.functional.layer_norm(x, (channels,), eps=eps)
        norms.append(normalised * (1 + norm_scale[:, own].view(per_sample)) + norm_shift[:, own].view(per_sample))
    return *exchanged, *norms
