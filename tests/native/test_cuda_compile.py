"""The CUDA sources compile without spills, and the library loads where there is no device."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fourreal_kernels import native
from fourreal_kernels.version import __version__

ROOT = Path(__file__).resolve().parents[2]
# The Hopper attention takes long to compile; test_hopper_compile.py does it once.
SOURCES = sorted(set((ROOT / "csrc/cuda").glob("*.cu")) - set((ROOT / "csrc/cuda").glob("hopper_attention*.cu")))
# Compiling takes long: `make test` looks at spills on Hopper, `make test-all` on sm_80 as well.
ARCHS = ("sm_90a", pytest.param("sm_80", marks=pytest.mark.slow))
# Their kernels need instructions of Hopper: compiled for an older chip they are empty or absent.
HOPPER_ONLY: set[str] = set()
# Static shared memory of a block that a source may use, where it is not what every chip gives without being asked.
SHARED_LIMITS: dict[str, int] = {}
SHARED_LIMIT = 48 << 10
NO_NVCC = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


def compile_source(source: Path, arch: str, *options: str) -> str:
    """nvcc's messages; fails on an error or a warning."""
    command = ["nvcc", "-O3", "-std=c++17", f"-I{ROOT / 'csrc/include'}", "-arch", arch, *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    return done.stderr


@NO_NVCC
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_spills(source, arch, tmp_path):
    messages = compile_source(source, arch, "-cubin", "-Xptxas", "-v", "-o", str(tmp_path / "out.cubin"))
    kernels = messages.count("Compiling entry function")
    expected = "__global__" in source.read_text() and (arch == "sm_90a" or source.name not in HOPPER_ONLY)
    assert kernels > 0 or not expected
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", messages)
    assert len(spills) == kernels
    assert all(counts == ("0", "0") for counts in spills), messages
    limit = SHARED_LIMITS.get(source.name, SHARED_LIMIT)
    assert all(int(count) <= limit for count in re.findall(r"(\d+) bytes smem", messages)), messages


# Of the kernels on packs of a source: their names, how many there are, the least 16-byte loads and stores of each.
VECTOR_KERNELS = {
    "sync_exchange_channel": (r"\S*channel_kernel\S*Li[48]E", 6, 4, 4),
    "sync_exchange_channel_backward": (r"\S*channel_backward_kernel\S*Li[48]E", 6, 4, 2),
    "sync_exchange_dense": (r"\S*(stage|finish)_kernel\S*Li[48]E", 6, 4, 2),
    "sync_exchange_norm": (r"\S*norm_kernel", 6, 8, 4),
    "qk_norm_rope_forward": (r"\S*norm_rope_forward_kernel\S*Lb1E", 3, 4, 4),
    "qk_norm_rope_backward": (r"\S*norm_rope_backward_kernel\S*Lb1E", 3, 4, 2),
}


@NO_NVCC
@pytest.mark.parametrize("source", VECTOR_KERNELS)
def test_vector_accesses_are_emitted(source, tmp_path):
    """Every kernel on packs loads and stores 16 bytes at a time: nvcc can split them without a word."""
    name, count, loads, stores = VECTOR_KERNELS[source]
    assembly = tmp_path / "out.ptx"
    compile_source(ROOT / f"csrc/cuda/{source}.cu", "sm_90a", "-ptx", "-o", str(assembly))
    wide = [kernel for kernel in assembly.read_text().split(".entry ")[1:] if re.match(name, kernel)]
    assert len(wide) == count
    for kernel in wide:
        wide_loads, wide_stores = kernel.count("ld.global.v4"), kernel.count("st.global.v4")
        assert wide_stores >= stores and wide_loads >= max(loads, wide_stores)
        assert not re.search(r"st\.global\.(?!v4|f32)", kernel)


@NO_NVCC
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_pointwise_attention_moves_vectors(direction, tmp_path):
    """Rows go to shared memory, to registers and back by 16 bytes; the element paths stay small."""
    assembly = tmp_path / "out.ptx"
    compile_source(ROOT / f"csrc/cuda/pointwise_attention_{direction}.cu", "sm_90a", "-ptx", "-o", str(assembly))
    kernels = assembly.read_text().split(".entry ")[1:]
    assert len(kernels) == 3
    for kernel in kernels:
        assert kernel.count("cp.async.cg.shared.global") >= 3 and kernel.count("ld.shared.v4") >= 16
        assert kernel.count("st.global.v4") >= 8 and len(re.findall(r"st\.global\.(?!v4)", kernel)) <= 20


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
