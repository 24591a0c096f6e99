"""A tiny model and small clips for the commands, and one thread for their small tensor operations."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import fourreal_kernels
from fourreal_kernels.cli import main
from fourreal_kernels.data.threads import one_thread
from fourreal_kernels.data.video import write_video
from fourreal_kernels.model import GridConfig, GridTransformer, save_model

TINY = GridConfig(
    views=3, times=3, height=16, width=16, patch=8, dim=24, depth=1, heads=2, sync_cond_dim=8, head_features=4
)
ROOT = Path(fourreal_kernels.__file__).parents[1]


@pytest.fixture(autouse=True)
def single_threaded() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def make_model() -> Callable[..., GridTransformer]:
    def make(config: GridConfig = TINY) -> GridTransformer:
        """A model with random weights everywhere, so that its output depends on the noise and on every operator."""
        generator = torch.Generator().manual_seed(1)
        model = GridTransformer(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        return model

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, make_model) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(make_model(), folder)
    return folder


@pytest.fixture(scope="session")
def moving_square() -> Callable[..., torch.Tensor]:
    def make(frames: int, height: int, width: int) -> torch.Tensor:
        """Frames (F, 3, H, W) in [0, 1]: a square crosses a gradient."""
        clip = torch.linspace(0.2, 0.8, width).expand(frames, 3, height, width).clone()
        for index, frame in enumerate(clip):
            left = index * (width // 2) // max(frames - 1, 1)
            frame[:, height // 4 : 3 * height // 4, left : left + width // 3] = torch.tensor([0.9, 0.3, 0.1])[
                :, None, None
            ]
        return clip

    return make


@pytest.fixture(scope="session")
def clips(tmp_path_factory, moving_square) -> Path:
    """Folder with ``fixed.mp4`` and ``freeze.mp4`` (3 frames of 16x16), ``long.mp4`` (7 of 48x30) and ``long.gif``."""
    folder = tmp_path_factory.mktemp("clips")
    for name in ("fixed.mp4", "freeze.mp4"):
        write_video(folder / name, moving_square(3, 16, 16), full_color=True)
    for name in ("long.mp4", "long.gif", "images"):
        write_video(folder / name, moving_square(7, 30, 48))
    return folder


@pytest.fixture(scope="session")
def run_process() -> Callable[..., subprocess.CompletedProcess]:
    def run(*argv: object, code: str = "from fourreal_kernels.cli import main; raise SystemExit(main())", **options):
        """The command line in a fresh process."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, *map(str, argv)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, **options)

    return run


@pytest.fixture
def fourreal(capsys) -> Callable[..., str]:
    def run(*argv: object) -> str:
        """Run the command line, which must succeed, and return what it printed."""
        status = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return captured.out

    return run
