"""Cheaper calls of device functions under Triton's interpreter.

The interpreter patches ``triton.language`` again at each call of a device function, which takes most of the time of
kernels that are made of small functions. Here it does so once per launch and module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from triton.runtime.interpreter import GridExecutor, InterpretedFunction


@contextmanager
def patched_once() -> Iterator[None]:
    """While open, a launch patches the language once for each module whose device functions it calls."""
    launch, call = GridExecutor.__call__, InterpretedFunction.__call__
    modules: set[str] = set()

    def launch_afresh(self, *args, **kwargs):
        modules.clear()
        return launch(self, *args, **kwargs)

    def call_directly(self, *args, **kwargs):
        if self.fn.__module__ in modules:
            return self.rewrite()(*args, **kwargs)
        modules.add(self.fn.__module__)
        return call(self, *args, **kwargs)

    GridExecutor.__call__, InterpretedFunction.__call__ = launch_afresh, call_directly
    try:
        yield
    finally:
        GridExecutor.__call__, InterpretedFunction.__call__ = launch, call
