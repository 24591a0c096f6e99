"""Which backends an operator is tested with, and what is asked of a backend that refuses a call."""

from __future__ import annotations

import pytest

import fourreal_kernels


def backends(op: str) -> list[str]:
    """Backends of ``op`` that load on this machine; the reference alone while a backend module is still missing."""
    try:
        return fourreal_kernels.available_backends(op)
    except ModuleNotFoundError:
        return ["reference"]


def can_run(op: str, backend: str, *args, **kwargs) -> bool:
    """Whether ``backend`` runs this call; where it does not, the call itself is shown to raise.

    The reference runs every call that is valid.
    """
    if backend == "reference" or fourreal_kernels.explain(op, *args, backend=backend, **kwargs).chosen == backend:
        return True
    with pytest.raises(NotImplementedError, match=f"^backend: '{backend}' cannot run"):
        getattr(fourreal_kernels, op)(*args, backend=backend, **kwargs)
    return False
