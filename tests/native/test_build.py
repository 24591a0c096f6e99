"""The build: what it yields, how it is loaded, and what it says where it cannot work."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fourreal_kernels import native
from fourreal_kernels.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def run_python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


def test_cpu_library_is_built():
    library = native.cpu_library()
    assert library is not None, native.why_missing("cpu")
    assert native.why_missing("cpu") == ""
    info = library.build_info()
    assert info["version"] == __version__
    assert info["compiler"] and "portable" in info["archs"]
    assert library.instruction_set() == library.usable_instruction_sets()[0]
    assert set(library.usable_instruction_sets()) <= set(info["archs"])


def test_wide_registers_are_used():
    """The AVX-512 clone is vectorised over whole registers, not merely allowed to."""
    library = native.cpu_library()
    if library is None or "avx512" not in library.build_info()["archs"]:
        pytest.skip("the library has no AVX-512 code")
    if not library.build_info()["compiler"].startswith("GNU"):
        pytest.skip("checked for gcc only")
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not on PATH")
    listing = subprocess.run(["objdump", "-d", library.__file__], capture_output=True, text=True, check=True)
    multiplications = [line for line in listing.stdout.splitlines() if "vmulp" in line]
    assert any("vmulps" in line and "zmm" in line for line in multiplications)
    assert any("vmulpd" in line and "zmm" in line for line in multiplications)
    assert any("vmulps" in line and "ymm" in line for line in multiplications)


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc/self/maps")
def test_one_openmp_runtime_in_the_process():
    code = (
        "from fourreal_kernels import native; assert native.cpu_library() is not None; "
        "print({line.split()[-1] for line in open('/proc/self/maps') if 'gomp' in line}.__len__())"
    )
    done = run_python("-c", code)
    assert done.stdout.strip() == "1", done.stderr


def test_nothing_is_loaded_at_import():
    code = (
        "import sys, fourreal_kernels.native as native; "
        "loaded = [name for name in sys.modules if name.startswith('fourreal_kernels._')]; "
        "assert not loaded, loaded"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def forget_loaded():
    native._load.cache_clear()
    yield
    native._load.cache_clear()


def test_why_missing_when_not_built(monkeypatch, forget_loaded):
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)
    assert native.cuda_library() is None
    assert native.why_missing("cuda").startswith("not built: fourreal_kernels._cuda")


def test_why_missing_when_not_loadable(monkeypatch, forget_loaded):
    def fail(name: str):
        raise ImportError("libexample.so.1: cannot open shared object file")

    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(native.importlib, "import_module", fail)
    assert native.cpu_library() is None
    assert native.why_missing("cpu") == "libexample.so.1: cannot open shared object file"


def test_why_missing_of_an_unknown_library():
    with pytest.raises(ValueError, match="'cpu' or 'cuda', got 'tpu'"):
        native.why_missing("tpu")


@pytest.fixture
def source_tree(tmp_path) -> Path:
    """What setup.py needs, copied: builds in the checkout would disturb it."""
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").write_text("")
    for name in ("cmake", "csrc", "python_bindings"):
        shutil.copytree(ROOT / name, tmp_path / name)
    package = tmp_path / "fourreal_kernels"
    package.mkdir()
    (package / "__init__.py").write_text("")
    shutil.copy(ROOT / "fourreal_kernels/version.py", package)
    return tmp_path


def test_without_a_compiler_one_sentence_names_the_way_out(source_tree):
    done = run_python("setup.py", "build_ext", "--inplace", cwd=source_tree, PATH="", CXX="")
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert "no C++ compiler found" in message and "FOURREAL_BUILD=0" in message
    assert "Traceback" not in done.stderr


def test_native_build_can_be_skipped(source_tree):
    environment = {"PATH": "", "CXX": "", "FOURREAL_BUILD": "0"}
    done = run_python("setup.py", "build_ext", "--inplace", cwd=source_tree, **environment)
    assert done.returncode == 0, done.stderr
    assert "FOURREAL_BUILD=0, the native libraries are not built" in done.stderr
    assert not list(source_tree.rglob("*.so"))


def test_compiler_errors_are_shown(source_tree):
    source = source_tree / "csrc/cpu/instruction_set.cpp"
    source.write_text(source.read_text() + "\nint broken = undeclared_name;\n")
    done = run_python("setup.py", "build_ext", "--inplace", cwd=source_tree, CMAKE_ARGS="-DFOURREAL_CUDA=OFF")
    assert done.returncode != 0
    assert "undeclared_name" in done.stdout + done.stderr
    assert "FOURREAL_CUDA=OFF" in done.stderr and "Traceback" not in done.stderr
