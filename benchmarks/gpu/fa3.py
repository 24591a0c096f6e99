"""FlashAttention-3 as a peer, from a library that the user brings: ``FOURREAL_FA3=/path/libdew_flash_attn3.so``.

The library is part of the PyPI wheel ``dew-flash-attn-cu13`` (BSD-3); it is called through JAX, in its own process. Its
seconds are those of a chain of calls, each taking the output of the one before as queries, so its caches are warm.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from .block import Absent, Job, Result, Settings

_VARIABLE = "FOURREAL_FA3"
_TARGET = "dew_flash3_mha_fwd"
_CHAIN, _ROUNDS = 10, 7
_LARGEST_ERROR = 3e-2
# (lines, keys, heads, head dim): vn or tn at V = T = 8 with N = 64, 256, 576, then 1560 with V = 4, T = 13.
_SHAPES = ((8, 512, 16, 64), (8, 2048, 16, 64), (8, 4608, 16, 64), (8, 4608, 8, 128), (13, 6240, 12, 128))


def jobs(settings: Settings) -> Iterator[Job]:
    """A job per shape, without copies: the tokens of a line lie one after the other."""
    for shape in _SHAPES:
        name = "{} lines of {} keys, H {} D {}".format(*shape)
        yield name, lambda s=shape: _measure(*s)


def _library() -> ctypes.CDLL:
    path = os.environ.get(_VARIABLE)
    if not path:
        raise Absent(f"{_VARIABLE} names no library")
    if importlib.util.find_spec("jax") is None:
        raise Absent("jax is not installed")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    jax.devices("gpu")  # loads the CUDA runtime that the library needs
    try:
        return ctypes.cdll.LoadLibrary(path)
    except OSError as error:
        raise Absent(f"{_VARIABLE}: {error}") from None


def _measure(lines: int, keys: int, heads: int, head_dim: int) -> Result:
    library = _library()
    import jax

    jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(getattr(library, _TARGET)), platform="CUDA")
    shape = (lines, keys, heads, head_dim)
    inputs = [jax.random.normal(jax.random.key(seed), shape, jax.numpy.bfloat16) for seed in range(3)]
    once, chain = (jax.jit(partial(_chain, jax, calls=calls)) for calls in (1, _CHAIN))
    error = _error(jax, once(*inputs), inputs)
    assert error < _LARGEST_ERROR, f"largest error {error:.2e}"
    seconds = _seconds(chain, inputs) / _CHAIN
    flops = 4 * lines * keys * keys * heads * head_dim
    return {"seconds_per_call": seconds, "tflops": round(flops / seconds / 1e12, 1), "error": error}


def _chain(jax: Any, q: Any, k: Any, v: Any, calls: int) -> Any:
    lines, keys, heads, head_dim = q.shape
    struct = partial(jax.ShapeDtypeStruct, dtype=np.float32)
    results = (jax.ShapeDtypeStruct(q.shape, q.dtype), struct((lines, heads, keys)), struct((1, 1, 1, 1)),
               struct((1, 1, 1)))
    call = jax.ffi.ffi_call(_TARGET, results)
    for _ in range(calls):
        q = call(q, k, v, softmax_scale=np.float64(head_dim**-0.5), is_causal=False, window_size_left=np.int64(-1),
                 window_size_right=np.int64(-1))[0]
    return q


def _error(jax: Any, out: Any, inputs: list[Any]) -> float:
    """Largest error of the first line and head."""
    q, k, v = (x[0, :, 0].astype(jax.numpy.float32) for x in inputs)
    expected = jax.nn.softmax(q @ k.T * q.shape[-1] ** -0.5) @ v
    return float(abs(out[0, :, 0].astype(jax.numpy.float32) - expected).max())


def _seconds(run: Any, inputs: list[Any]) -> float:
    """Median of some calls after one that compiles."""
    run(*inputs).block_until_ready()
    taken = []
    for _ in range(_ROUNDS):
        started = perf_counter()
        run(*inputs).block_until_ready()
        taken.append(perf_counter() - started)
    return median(taken)
