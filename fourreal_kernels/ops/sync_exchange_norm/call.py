"""The arguments of a ``sync_exchange_norm`` call and their checks; backends judge it as they do its exchange."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .. import checks
from ..once import once_per_layout
from ..sync_exchange.call import check_inputs


class ExchangeNormTensors(NamedTuple):
    """Every tensor argument, in the order of the registered operators. Absent ones are None."""

    view: Tensor
    time: Tensor
    view_branch: Tensor
    time_branch: Tensor
    weight: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    gate: Tensor | None
    branch_gate: Tensor | None
    norm_scale: Tensor
    norm_shift: Tensor

    def exchange_parameters(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        return self.weight, self.bias, self.input_scale, self.gate


TENSORS = ExchangeNormTensors._fields


@once_per_layout
def check_tensors(*arguments) -> None:
    """Raise unless every argument has the shape, dtype and device that ``kind`` asks for.

    Args:
        arguments: those of :class:`ExchangeNormTensors`, then kind and eps.
    """
    *tensors, kind, eps = arguments
    tensors = ExchangeNormTensors(*tensors)
    view, time = tensors.view, tensors.time
    check_inputs(view, time, tensors.weight, tensors.bias, kind, tensors.input_scale, tensors.gate)
    for name in ("view_branch", "time_branch"):
        branch = getattr(tensors, name)
        checks.require_tensor(name, branch)
        checks.require_like(name, branch, "view", view)
        checks.require_unit_stride(name, branch)
    expected = (view.shape[0], 2 * view.shape[-1])
    for name in ("branch_gate", "norm_scale", "norm_shift"):
        x = getattr(tensors, name)
        if x is None and name == "branch_gate":
            continue
        checks.require_tensor(name, x)
        checks.require_like(name, x, "view", view, shape=False)
        if tuple(x.shape) != expected:
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected {expected}: (B, 2C), view's channels first")
    if isinstance(eps, bool) or not isinstance(eps, int | float):
        raise TypeError(f"eps: expected a number, got {type(eps).__name__}")
    if not eps >= 0:
        raise ValueError(f"eps: got {eps}, expected a number >= 0")
