"""The Hopper attention kernels' machine code, without a GPU: instructions, registers, shared memory, other chips."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {name: ROOT / folder / f"{name}.cu" for name, folder in
           (("hopper_attention", "csrc/cuda"), ("hopper_attention_backward", "csrc/cuda"),
            ("hopper_microtests", "tests/native/hopper_microtests"))}
# float16 and bfloat16: D = 64, and D = 128 with 128 and 192 keys in a tile; for the backward D = 64 and 128, of the
# keys, of the queries, and their statistics
KERNELS = {"hopper_attention": 6, "hopper_attention_backward": 12}
SHARED_LIMIT = 232_448
# Head dim, listed rows, stages; whose gradients: 0 of the queries, 1 of the keys.
GRADIENT_KERNEL = re.compile(r"Li(\d+)ELi(\d+)ELi(\d+)ELNS\S*?GradientsOfE(\d)E")

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


@cache
def compiled(name: str, arch: str, folder: Path) -> tuple[Path, str]:
    """The cubin and nvcc's messages; fails on an error or a warning, C75xx (serialised wgmma) among them."""
    cubin = folder / f"{name}_{arch}.cubin"
    command = ["nvcc", "-O3", "-std=c++17", f"-I{ROOT / 'csrc/include'}", f"-I{ROOT / 'csrc/cuda'}", "-arch", arch,
               "-Xptxas", "-v", "-cubin", str(SOURCES[name]), "-o", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not re.search(r"warning|C75\d\d", done.stderr), done.stderr
    return cubin, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hopper")


def cuobjdump() -> str:
    """From the CUDA toolkit, else from Triton."""
    triton = importlib.util.find_spec("triton")
    folders = [Path(triton.origin).parent / "backends/nvidia/bin"] if triton and triton.origin else []
    for path in (shutil.which("cuobjdump"), *(str(folder / "cuobjdump") for folder in folders)):
        if path and Path(path).is_file():
            return path
    pytest.skip("neither the CUDA toolkit nor Triton brings cuobjdump here")


def functions_of(cubin: Path) -> dict[str, str]:
    """Machine code by kernel."""
    listing = subprocess.run([cuobjdump(), "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"Function : (\S+)", listing)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_sm_90a_uses_no_local_memory(folder):
    for name in SOURCES:
        _, messages = compiled(name, "sm_90a", folder)
        counts = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", messages)
        assert counts and all(count == ("0", "0", "0") for count in counts), messages
    for name, count in KERNELS.items():
        assert compiled(name, "sm_90a", folder)[1].count("Compiling entry function") == count


def test_attention_has_hopper_instructions(folder):
    kernels = functions_of(compiled("hopper_attention", "sm_90a", folder)[0])
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


def test_backward_has_hopper_instructions(folder):
    kernels = functions_of(compiled("hopper_attention_backward", "sm_90a", folder)[0])
    kernels = {name: code for name, code in kernels.items() if "hopper_gradient_kernel" in name}
    assert len(kernels) == 8
    for name, code in kernels.items():
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


def test_backward_shared_memory_fits(folder):
    """The kernels' own static_assert, repeated from the numbers that their names carry."""
    names = functions_of(compiled("hopper_attention_backward", "sm_90a", folder)[0])
    found = [match for name in names if (match := GRADIENT_KERNEL.search(name))]
    assert len(found) == 8
    for match in found:
        head_dim, listed, stages, of_keys = map(int, match.groups())
        stage = 2 * listed * (head_dim * 2 + 4 * of_keys)
        assert 2 * 128 * head_dim * 2 + stages * stage + 1024 + 8 * (3 + 3 * stages) <= SHARED_LIMIT


def test_attention_shared_memory_fits(folder):
    """The kernels' own static_assert, repeated from the numbers that their names carry."""
    for name in functions_of(compiled("hopper_attention", "sm_90a", folder)[0]):
        head_dim, keys, consumers = map(int, re.search(r"Li(\d+)ELi(\d+)ELi(\d+)E", name).groups())
        assert (consumers * 64 + 4 * keys) * head_dim * 2 + 1024 + 80 <= SHARED_LIMIT


@pytest.mark.parametrize("arch", ("sm_80", "sm_100"))
@pytest.mark.parametrize("name", KERNELS)
def test_other_chips_get_empty_kernels(folder, name, arch):
    """They have none of the instructions; the host refuses to launch there."""
    cubin, messages = compiled(name, arch, folder)
    assert set(re.findall(r"used (\d+) barriers", messages)) == {"0"}
    for code in functions_of(cubin).values():
        assert not re.search(r"HGMMA|UTMA|SYNCS|STG|LDG|BAR", code)
