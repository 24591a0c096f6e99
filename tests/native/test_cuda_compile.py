"""The kernels of the built library spill nothing and move 16 bytes at a time; it loads where there is no device."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from built_kernels import ROOT, besides_figures, kernels_of, machine_code, messages, registers_in_library
from fourreal_kernels import native
from fourreal_kernels.version import __version__

SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
# Their kernels need instructions of Hopper.
HOPPER_ONLY = {source for source in SOURCES if source.name.startswith("hopper_")}
# Static shared memory of a block that every chip gives without being asked.
SHARED_LIMIT = 48 << 10
NO_NVCC = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


def chips() -> set[str]:
    """The chips that the library has machine code for."""
    return {arch for arch in native.cuda_library().build_info()["archs"] if arch.startswith("sm_")}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_spills_and_no_warnings(source):
    """On every chip."""
    said = messages(source)
    assert besides_figures(said) == ""
    kernels = kernels_of(said)
    assert "__global__" not in source.read_text() or kernels
    expected = {"sm_90a"} if source in HOPPER_ONLY else chips()
    assert not kernels or {kernel.arch for kernel in kernels} == expected
    assert [kernel for kernel in kernels if kernel.spill_stores or kernel.spill_loads] == []
    assert [kernel for kernel in kernels if kernel.shared > SHARED_LIMIT] == []


def test_the_messages_are_those_of_the_library():
    """And of all of its kernels."""
    said = [kernel for source in SOURCES for kernel in kernels_of(messages(source))]
    assert {(kernel.arch, kernel.name): kernel.registers for kernel in said} == registers_in_library()


SPILLING = """ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 320 bytes smem, 1012 bytes cmem[0]
"""


@pytest.mark.parametrize("more", ["", "a.cu(3): warning #177-D: variable \"x\" was declared but never referenced\n",
                                  "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async\n",
                                  "ptxas info    : Function properties for f\n    8 bytes stack frame, 8 bytes spill "
                                  "stores, 8 bytes spill loads\n"], ids=["nothing", "nvcc", "ptxas", "function"])
def test_spills_and_warnings_are_seen(more):
    (kernel,) = kernels_of(more + SPILLING)
    assert (kernel.name, kernel.arch, kernel.stack, kernel.spill_stores, kernel.spill_loads) == ("k", "sm_80", 16, 8, 4)
    assert (kernel.registers, kernel.barriers, kernel.shared) == (255, 1, 320)
    assert besides_figures(more + SPILLING + "ptxas info    : 0 bytes gmem, 8 bytes cmem[3]\n") == more


# Of the kernels on packs of a source: their names, how many there are, the least 16-byte loads and stores of each.
VECTOR_KERNELS = {
    "sync_exchange_channel": (r"\S*channel_kernel\S*Li[48]E", 6, 4, 4),
    "sync_exchange_channel_backward": (r"\S*channel_backward_kernel\S*Li[48]E", 6, 4, 2),
    "sync_exchange_dense": (r"\S*(stage|finish)_kernel\S*Li[48]E", 6, 4, 2),
    "sync_exchange_norm": (r"\S*norm_kernel", 6, 8, 4),
    "qk_norm_rope_forward": (r"\S*norm_rope_forward_kernel\S*Lb1E", 3, 4, 4),
    "qk_norm_rope_backward": (r"\S*norm_rope_backward_kernel\S*Lb1E", 3, 4, 2),
}


def kernels_on_hopper(source: str, pattern: str) -> list[str]:
    """Machine code of the kernels of csrc/cuda/<source>.cu whose names match."""
    code = machine_code(ROOT / f"csrc/cuda/{source}.cu", "sm_90a")
    return [kernel for name, kernel in code.items() if re.match(pattern, name)]


@pytest.mark.parametrize("source", VECTOR_KERNELS)
def test_vector_accesses_are_emitted(source):
    """Every kernel on packs loads and stores 16 bytes at a time: nvcc can split them without a word."""
    name, count, loads, stores = VECTOR_KERNELS[source]
    wide = kernels_on_hopper(source, name)
    assert len(wide) == count
    for kernel in wide:
        wide_loads, wide_stores = (len(re.findall(rf"{access}\.E\S*\.128\b", kernel)) for access in ("LDG", "STG"))
        assert wide_stores >= stores and wide_loads >= max(loads, wide_stores)
        assert not re.search(r"STG\.E\S*\.(?:64|[US](?:8|16))\b", kernel)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_pointwise_attention_moves_vectors(direction):
    """Rows go to shared memory, to registers and back by 16 bytes; the element paths stay small."""
    kernels = kernels_on_hopper(f"pointwise_attention_{direction}", "")
    assert len(kernels) == 3
    for kernel in kernels:
        assert len(re.findall(r"LDGSTS\.E\.BYPASS\S*\.128\b", kernel)) >= 3
        assert len(re.findall(r"LDS\.128\b", kernel)) >= 16
        stores = re.findall(r"STG\.E(\S*)", kernel)
        assert stores.count(".128") >= 8 and len(stores) - stores.count(".128") <= 20


@NO_NVCC
def test_library_is_built_where_nvcc_is():
    library = native.cuda_library()
    assert library is not None, native.why_missing("cuda")
    info = library.build_info()
    assert info["version"] == __version__ and info["compiler"].startswith("NVIDIA")
    assert {"sm_80", "sm_90a"} <= set(info["archs"])


@pytest.mark.skipif(native.cuda_library() is None, reason=native.why_missing("cuda"))
def test_library_without_a_device():
    """No device is visible: loading works, counting gives 0 with a reason, launching raises CUDA's words."""
    code = """if True:
        from fourreal_kernels import native
        library = native.cuda_library()
        assert library.device_count() == 0
        assert library.why_no_device()
        strides = [4, 4, 4, 4, 1]
        try:
            library.sync_exchange_channel("hard", "float32", [1, 1, 1, 1, 4], *[(16, strides)] * 4, 16)
        except RuntimeError as error:
            assert "CUDA error" in str(error), error
        else:
            raise SystemExit("the launch did not raise")
    """
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
