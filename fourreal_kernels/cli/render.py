"""Render a procedural 4D scene: its two input videos and the true grid."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..data import caption, is_held_out, sample_scene, write_scene
from ..data import render as render_scene
from ..data.contact_sheet import contact_sheet
from ..data.grid_files import SHEET_FRAME_SIDE
from ..data.staging import staged_folder
from ..data.video import VideoError, write_video
from ..model.conditioning import cross_mask
from .arguments import FAMILIES, LARGEST_SEED, add_out, check_output, check_packages, integer
from .errors import UserError, user_errors

FIXED_VIEW, FREEZE_TIME = "fixed_view.mp4", "freeze_time.mp4"
_NAMES = (FIXED_VIEW, FREEZE_TIME, "grid.npz", "grid.png")
_SIZE_STEP = 8
# 1.6 GB of frames, and about as much again of depth and object indices.
_MOST_PIXELS = 2**27


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``fourreal render``."""
    parser.add_argument(
        "--seed", type=integer(0, LARGEST_SEED), required=True, metavar="S",
        help="of the scene; nothing is trained on seeds of 900000 and above",
    )
    add_out(parser)
    parser.add_argument("--views", type=integer(1), default=8, metavar="V", help="default: 8")
    parser.add_argument("--times", type=integer(1), default=8, metavar="T", help="timesteps (default: 8)")
    parser.add_argument(
        "--size", type=integer(_SIZE_STEP), default=64, metavar="PX",
        help=f"height and width of the frames, a multiple of {_SIZE_STEP} (default: 64)",
    )
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0], help=f"default: {FAMILIES[0]}")


def run(arguments: Namespace) -> None:
    """Write ``fixed_view.mp4``, ``freeze_time.mp4``, ``grid.npz`` and ``grid.png`` into ``--out``."""
    views, times, size = arguments.views, arguments.times, arguments.size
    if size % _SIZE_STEP:
        raise UserError(f"argument --size: got {size}, expected a multiple of {_SIZE_STEP}")
    if views * times * size * size > _MOST_PIXELS:
        raise UserError(
            f"arguments --views, --times, --size: {views} x {times} frames of {size} x {size} are "
            f"{views * times * size * size} pixels, expected at most {_MOST_PIXELS}"
        )
    check_packages(("PIL", "av"))
    check_output(arguments.out, _NAMES)
    scene = sample_scene(arguments.seed, views, times, arguments.family)
    print(f"scene {scene.seed}: {caption(scene)}")
    if is_held_out(scene.seed):
        print(f"seed {scene.seed} is held out: nothing is trained on it")
    grid = render_scene(scene, size, size)
    with user_errors(OSError, VideoError), staged_folder(arguments.out) as stage:
        _write(stage, scene, grid)
    for name in _NAMES:
        print(f"wrote {arguments.out / name}")


def _write(folder: Path, scene, grid) -> None:
    write_scene(folder, scene, grid)
    # Small frames with sharp edges: halved colour resolution would be visible in what is generated from them.
    write_video(folder / FIXED_VIEW, grid.frames[0], full_color=True)
    write_video(folder / FREEZE_TIME, grid.frames[:, 0], full_color=True)
    given = cross_mask(scene.views, scene.times)
    scale = max(1, -(-SHEET_FRAME_SIDE // grid.frames.shape[-1]))
    contact_sheet(grid.frames, given=given, scale=scale).save(folder / "grid.png")
