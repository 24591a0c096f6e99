"""The fused exchange in plain PyTorch: the definition every other backend is tested against."""

from __future__ import annotations

from ..sync_exchange.call import ExchangeCall
from .formulas import backward, forward

__all__ = ["backward", "forward", "refusal", "unavailable"]


def unavailable() -> str | None:
    return None


def refusal(call: ExchangeCall) -> str | None:
    return None
