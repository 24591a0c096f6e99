"""Builds the native libraries of fourreal_kernels with CMake. Everything else is in pyproject.toml.

Environment:
    FOURREAL_BUILD=0    install without the native libraries (the PyTorch backends still work)
    CMAKE_ARGS          further arguments for CMake, for example -DFOURREAL_CUDA=OFF
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
COMPILERS = ("c++", "g++", "clang++", "icpx")


def find_tool(name: str) -> str | None:
    """Path of cmake or ninja: beside this Python (a venv's scripts may not be on PATH), else on PATH."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)


def require_compiler() -> None:
    if os.name == "nt" or os.environ.get("CXX") or any(map(shutil.which, COMPILERS)):
        return
    raise SystemExit(
        "fourreal-kernels: no C++ compiler found; install one (for example g++), name one in CXX, "
        "or set FOURREAL_BUILD=0 to install without the native libraries."
    )


def require_cmake() -> str:
    cmake = find_tool("cmake")
    if cmake is None:
        raise SystemExit(
            "fourreal-kernels: cmake not found; install it (pip install cmake), build with isolation, "
            "or set FOURREAL_BUILD=0 to install without the native libraries."
        )
    return cmake


def pybind11_directory() -> str:
    try:
        import pybind11
    except ImportError:
        raise SystemExit(
            "fourreal-kernels: pybind11 not found; install it (pip install pybind11), build with isolation, "
            "or set FOURREAL_BUILD=0 to install without the native libraries."
        ) from None
    return pybind11.get_cmake_dir()


def discard_foreign_cache(directory: Path, generator: str) -> None:
    """Remove a build folder that another checkout or generator made: CMake would refuse it."""
    cache = directory / "CMakeCache.txt"
    if not cache.is_file():
        return
    lines = cache.read_text(encoding="utf-8", errors="replace").splitlines()
    expected = {
        f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT.as_posix()}",
        f"CMAKE_CACHEFILE_DIR:INTERNAL={directory.as_posix()}",
        f"CMAKE_GENERATOR:INTERNAL={generator}",
    }
    if not expected.issubset(lines):
        shutil.rmtree(directory)


def run(command: list[str]) -> None:
    print("+", shlex.join(command), flush=True)
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(
            "fourreal-kernels: the native build failed, see the messages above. "
            "CMAKE_ARGS=-DFOURREAL_CUDA=OFF leaves the CUDA library out; "
            "FOURREAL_BUILD=0 installs without the native libraries."
        )


class CMakeBuild(build_ext):
    """Builds all extensions by one CMake project; `_cuda` exists afterwards only if nvcc was found."""

    def build_extensions(self) -> None:
        require_compiler()
        cmake = require_cmake()
        ninja = find_tool("ninja")
        generator = "Ninja" if ninja else "Unix Makefiles"
        outputs = {ext.name: Path(self.get_ext_fullpath(ext.name)).resolve() for ext in self.extensions}
        output_directory = next(iter(outputs.values())).parent
        for path in outputs.values():
            path.unlink(missing_ok=True)

        # Kept between builds, which setuptools' own folder is not for an editable install.
        build_directory = ROOT / "build" / f"cmake-{self.plat_name}-{sys.implementation.cache_tag}"
        discard_foreign_cache(build_directory, generator)
        configure = [
            *(cmake, "-S", str(ROOT), "-B", str(build_directory), "-G", generator),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output_directory}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11_directory()}",
        ]
        if ninja:
            configure.append(f"-DCMAKE_MAKE_PROGRAM={ninja}")
        run(configure + shlex.split(os.environ.get("CMAKE_ARGS", "")))
        run([cmake, "--build", str(build_directory), "--parallel", str(os.cpu_count() or 1)])
        self.extensions = [ext for ext in self.extensions if outputs[ext.name].is_file()]


def native_extensions() -> list[Extension]:
    if os.environ.get("FOURREAL_BUILD", "1") == "0":
        print("fourreal-kernels: FOURREAL_BUILD=0, the native libraries are not built", file=sys.stderr)
        return []
    return [Extension("fourreal_kernels._cpu", []), Extension("fourreal_kernels._cuda", [])]


setup(ext_modules=native_extensions(), cmdclass={"build_ext": CMakeBuild})
