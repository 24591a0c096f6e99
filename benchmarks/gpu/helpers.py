"""The helpers of the tests, which the checks on the GPU share: formulas, layouts, precision rule, poisoned outputs."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

_FOLDER = str(Path(__file__).parents[2] / "tests" / "helpers")
if _FOLDER not in sys.path:
    sys.path.append(_FOLDER)

import attention_cases  # noqa: E402
import exchange_formula  # noqa: E402
import op_layouts  # noqa: E402
import op_numerics  # noqa: E402
import rope_formula  # noqa: E402

__all__ = ["attention_cases", "exchange_formula", "interpreted_bfloat16", "op_layouts", "op_numerics", "rope_formula"]


def interpreted_bfloat16() -> ModuleType:
    """The helper of that name, which needs Triton."""
    return import_module("interpreted_bfloat16")
