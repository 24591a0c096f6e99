"""The Triton kernels under Triton's interpreter: a process of its own, ``TRITON_INTERPRET=1 pytest tests/triton``.

With ``FOURREAL_TEST_DEVICE=cuda`` the same tests run compiled, on a GPU.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

if find_spec("triton") is None:
    pytest.exit("tests/triton not run: triton is not installed (pip install triton)", returncode=0)
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"

if not INTERPRETING and not os.environ.get("FOURREAL_TEST_DEVICE"):
    pytest.exit(
        "tests/triton runs the kernels under Triton's interpreter, which has to be chosen before Triton is imported: "
        "run `TRITON_INTERPRET=1 python -m pytest tests/triton`",
        returncode=pytest.ExitCode.USAGE_ERROR,
    )


@pytest.fixture(autouse=True, scope="session")
def bfloat16_arithmetic():
    """The interpreter's bfloat16 made to agree with the hardware's."""
    if not INTERPRETING:
        yield
        return
    import interpreted_bfloat16

    with interpreted_bfloat16.corrected():
        yield
