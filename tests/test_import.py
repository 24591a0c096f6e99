"""Importing the library needs nothing optional, queries no device and prints nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ABSENT = ("triton", "fourreal_kernels._cpu", "fourreal_kernels._cuda", "PIL", "av", "tqdm", "safetensors", "diffusers",
          "scipy", "torchmetrics")

BLOCKED = f"""
import sys
import torch  # its own optional imports are not what is tested
import numpy
for name in {ABSENT!r}:
    for loaded in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
        del sys.modules[loaded]
    sys.modules[name] = None  # importing it raises ImportError
"""

NO_DEVICE = """
import torch
def queried(*args, **kwargs):
    raise AssertionError("a device was queried")
for module, names in (
    (torch.cuda, ("is_available", "device_count", "current_device", "get_device_capability",
                  "get_device_properties", "get_device_name", "init", "_lazy_init")),
    (torch._C, ("_cuda_getDeviceCount",)),
):
    for name in names:
        if hasattr(module, name):
            setattr(module, name, queried)
"""

USE = """
x = torch.randn(1, 2, 2, 3, 2, 8)
fourreal_kernels.axis_attention(x, x, x, "vn|tn")
view, time = fourreal_kernels.sync_exchange(x, x.clone(), torch.full((2, 8), 0.5), kind="hard", backend="reference")
assert torch.equal(view, x)
fourreal_kernels.qk_norm_rope_(view, time, None, None, None, None)
"""


def run(code: str) -> str:
    """Standard output of a fresh interpreter, which must not fail or print to standard error."""
    done = subprocess.run([sys.executable, "-W", "error::DeprecationWarning:fourreal_kernels", "-c", code], cwd=ROOT,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return done.stdout


def test_without_any_optional_package_or_compiled_library():
    assert run(BLOCKED + "import fourreal_kernels\n" + USE) == ""


def test_no_device_is_queried_until_an_operator_runs():
    assert run(NO_DEVICE + "import fourreal_kernels\n") == ""


def test_what_an_import_loads():
    """No optional package, no backend of an operator, every public name."""
    code = f"""
import sys, torch, numpy
before = set(sys.modules)
import fourreal_kernels
optional = set({ABSENT!r})
print(sorted(name for name in set(sys.modules) - before if name in optional or name.split(".")[0] in optional))
backends = ("reference", "sdpa", "cpu", "triton", "cuda")
print([m for m in sys.modules if m.startswith("fourreal_kernels.ops") and m.split(".")[-1] in backends])
print([name for name in fourreal_kernels.__all__ if not hasattr(fourreal_kernels, name)])
print(fourreal_kernels.__version__)
"""
    loaded, backends, missing, version = run(code).splitlines()
    assert (loaded, backends, missing) == ("[]", "[]", "[]") and version[0].isdigit()
