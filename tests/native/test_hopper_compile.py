"""The Hopper attention kernels' machine code, without a GPU: instructions, registers, shared memory, other chips."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from built_kernels import ROOT, besides_figures, kernels_of, machine_code, messages, registers_in_library

ATTENTION = ROOT / "csrc/cuda/hopper_attention.cu"
BACKWARD = ROOT / "csrc/cuda/hopper_attention_backward.cu"
MICROTESTS = ROOT / "tests/native/hopper_microtests/hopper_microtests.cu"
# float16 and bfloat16, D = 64, and D = 128 with 128 and 192 keys in a tile
ATTENTION_KERNELS = 6
# the same types: D = 64 and 128, of the keys and of the queries; and their statistics
GRADIENT_KERNELS, STATISTICS_KERNELS = 8, 4
SHARED_LIMIT = 232_448
# Head dim, listed rows, stages; whose gradients: 0 of the queries, 1 of the keys.
GRADIENT_KERNEL = re.compile(r"Li(\d+)ELi(\d+)ELi(\d+)ELNS\S*?GradientsOfE(\d)E")


@pytest.fixture(scope="module")
def kernels() -> dict[str, str]:
    """Machine code of the attention kernels."""
    return machine_code(ATTENTION, "sm_90a")


@pytest.fixture(scope="module")
def gradient_kernels() -> dict[str, str]:
    """Machine code of the backward's two products kernels."""
    code = machine_code(BACKWARD, "sm_90a")
    return {name: text for name, text in code.items() if "hopper_gradient_kernel" in name}


def uses_no_local_memory(said: str) -> bool:
    kernels = kernels_of(said)
    return bool(kernels) and all(kernel.stack == kernel.spill_stores == kernel.spill_loads == 0 for kernel in kernels)


def test_attention_uses_no_local_memory():
    """That wgmma is not serialised (C75xx), and nothing else said: test_cuda_compile.py, for every source."""
    for source, count in ((ATTENTION, ATTENTION_KERNELS), (BACKWARD, GRADIENT_KERNELS + STATISTICS_KERNELS)):
        said = messages(source)
        assert uses_no_local_memory(said) and len(kernels_of(said)) == count


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_microtests_compile_without_local_memory(tmp_path):
    command = ["nvcc", "-O3", "-std=c++17", f"-I{ROOT / 'csrc/include'}", f"-I{ROOT / 'csrc/cuda'}", "-arch", "sm_90a",
               "-Xptxas", "-v", "-cubin", str(MICROTESTS), "-o", str(tmp_path / "microtests.cubin")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and besides_figures(done.stderr) == "", done.stderr
    assert uses_no_local_memory(done.stderr), done.stderr


def test_attention_has_hopper_instructions(kernels):
    assert len(kernels) == ATTENTION_KERNELS
    for name, code in kernels.items():
        head_dim, keys = map(int, re.search(r"Li(64|128)ELi(128|192)E", name).groups())
        kind = "BF16" if "BFloat16" in name else "F16|F32"
        # scores of the first key tile and of the others; outputs of the last and of the others
        assert len(re.findall(rf"HGMMA\.64x{keys}x16\.F32(?!.*tnspB)", code)) == 2 * head_dim // 16, name
        assert len(re.findall(rf"HGMMA\.64x{head_dim}x16\.F32\S* .*tnspB", code)) == 2 * keys // 16, name
        assert re.search(rf"HGMMA\S*\.(?:{kind})", code), name
        for instruction in ("UTMALDG.5D", "UTMASTG.5D", "USETMAXREG", "SYNCS.PHASECHK", "MUFU.EX2"):
            assert instruction in code, (name, instruction)
        assert not re.search(r"\b(LDL|STL)\b", code), name


def test_backward_has_hopper_instructions(gradient_kernels):
    assert len(gradient_kernels) == GRADIENT_KERNELS
    for name, code in gradient_kernels.items():
        head_dim, listed, _, of_keys = map(int, GRADIENT_KERNEL.search(name).groups())
        # scores and the products with grad_out's rows or v's; then the sums over the listed rows
        assert len(re.findall(rf"HGMMA\.64x{listed}x16\.F32(?!.*tnspB)", code)) == 2 * head_dim // 16, name
        assert len(re.findall(rf"HGMMA\.64x{head_dim}x16\.F32\S* .*tnspB", code)) == (1 + of_keys) * listed // 16, name
        assert len(re.findall(r"HGMMA\.64x", code)) == 2 * head_dim // 16 + (1 + of_keys) * listed // 16, name
        assert ("UBLKCP" in code) == bool(of_keys), name  # the statistics of listed queries
        # The exponentials run during the product that is issued before them, not after the wait for it.
        between = re.split(r"HGMMA\.64x.*tnspB", code)[0].rsplit("HGMMA", 1)[1]
        exponentials = [part.count("MUFU.EX2") for part in between.split("DEPBAR")]
        assert exponentials == [0, listed // 2, 0][: 3 - of_keys], name
        for instruction in ("UTMALDG.5D", "UTMASTG.5D", "USETMAXREG", "SYNCS.PHASECHK", "MUFU.EX2"):
            assert instruction in code, (name, instruction)
        assert not re.search(r"\b(LDL|STL|ATOM|RED)\b", code), name


def test_backward_shared_memory_fits(gradient_kernels):
    """The kernels' own static_assert, repeated from the numbers that their names carry."""
    for name in gradient_kernels:
        head_dim, listed, stages, of_keys = map(int, GRADIENT_KERNEL.search(name).groups())
        stage = 2 * listed * (head_dim * 2 + 4 * of_keys)
        assert 2 * 128 * head_dim * 2 + stages * stage + 1024 + 8 * (3 + 3 * stages) <= SHARED_LIMIT


def test_attention_shared_memory_fits(kernels):
    """The kernels' own static_assert, repeated from the numbers that their names carry."""
    for name in kernels:
        head_dim, keys, consumers = map(int, re.search(r"Li(\d+)ELi(\d+)ELi(\d+)E", name).groups())
        assert (consumers * 64 + 4 * keys) * head_dim * 2 + 1024 + 80 <= SHARED_LIMIT


def test_other_chips_have_no_hopper_kernels():
    """The host refuses to launch there."""
    archs = {arch for arch, name in registers_in_library() if "hopper" in name}
    assert archs == {"sm_90a"}
