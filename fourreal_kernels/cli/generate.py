"""Generate a grid from a fixed-view video, a freeze-time video, or both."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch

from ..data.staging import staged_folder
from ..data.video import VideoError, fit_clip, read_video
from ..model.checkpoint import BUNDLED, bundled_path
from ..model.config import GridConfig
from ..model.continuation import WINDOWS
from ..model.pipeline import GridPipeline
from .arguments import (
    LARGEST_SEED,
    add_model,
    add_out,
    check_output,
    check_packages,
    integer,
    load_pipeline,
    path,
)
from .backends import backend_context, chosen_backends
from .environment import versions
from .errors import UserError, user_errors
from .render import FIXED_VIEW, FREEZE_TIME

_LONGEST_AXIS = 64
_NAMES = ("grid.npz", "grid.png", "grid.mp4", "index.html", "run.json")


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``fourreal generate``."""
    parser.add_argument(
        "--fixed-view", type=path, metavar="PATH",
        help="the timesteps of one view: a video, GIF, WebP or folder of images (default: a bundled sample)",
    )
    parser.add_argument(
        "--freeze-time", type=path, metavar="PATH",
        help="the views of its first timestep, likewise; one of the two alone gives a guess",
    )
    for axis, source in (("views", "--freeze-time"), ("times", "--fixed-view")):
        parser.add_argument(
            f"--{axis}", type=integer(2, _LONGEST_AXIS), metavar="N",
            help=f"of the grid; that many frames are taken from {source} (default: as the model was trained)",
        )
    parser.add_argument(
        "--windows", choices=WINDOWS, default=WINDOWS[0],
        help=f"how a grid larger than the model was trained on is generated (default: {WINDOWS[0]})",
    )
    add_out(parser)
    add_model(parser)
    parser.add_argument("--seed", type=integer(0, LARGEST_SEED), default=0, metavar="S", help="default: 0")


@dataclass(frozen=True)
class Input:
    """One of the two input clips: its frames ``(F, 3, H, W)`` in [0, 1], and its entry in ``run.json``."""

    frames: torch.Tensor
    record: dict


def run(arguments: Namespace) -> None:
    """Write ``grid.npz``, ``grid.png``, ``grid.mp4``, ``index.html`` and ``run.json`` into ``--out``."""
    paths = _input_paths(arguments)
    check_packages(("PIL", "av", "safetensors", "tqdm"))
    _check_apart(arguments.out, paths)
    check_output(arguments.out, _NAMES)
    seconds: dict[str, float] = {}
    with _timed(seconds, "load"):
        pipeline = load_pipeline(arguments)
    config = pipeline.model.config
    if min(config.views, config.times) < 2:
        raise UserError(f"argument --model: it makes {config.views} x {config.times} frames, expected 2 x 2 or more")
    counts = {"views": arguments.views or config.views, "times": arguments.times or config.times}
    backends = chosen_backends(pipeline.model, **_largest_pass(arguments, config, counts), backend=arguments.backend)
    with _timed(seconds, "read"):
        inputs = _read_inputs(paths, counts, (config.height, config.width))
    with _timed(seconds, "generate"), backend_context(arguments.backend):
        video = pipeline(
            **{name: clip.frames for name, clip in inputs.items()}, **counts, windows=arguments.windows,
            steps=arguments.steps, seed=arguments.seed, sampler=arguments.sampler,
        )
    for note in video.notes:
        print(f"note: {note}")
    with user_errors(OSError, VideoError), staged_folder(arguments.out) as stage:
        with _timed(seconds, "write"):
            video.save(stage, caption=_caption(arguments, paths))
        record = _record(arguments, pipeline, inputs, counts, backends, video.notes, seconds)
        (stage / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    generated = int((~video.given).sum())
    print(f"generated {generated} of {video.given.numel()} frames in {seconds['generate']:.1f} s")
    for name in _NAMES:
        print(f"wrote {arguments.out / name}")


def _input_paths(arguments: Namespace) -> dict[str, Path]:
    paths = {"fixed_view": arguments.fixed_view, "freeze_time": arguments.freeze_time}
    given = {name: source for name, source in paths.items() if source is not None}
    sample = Path(str(resources.files("fourreal_kernels.model") / "sample"))
    return given or {"fixed_view": sample / FIXED_VIEW, "freeze_time": sample / FREEZE_TIME}


def _largest_pass(arguments: Namespace, config: GridConfig, counts: dict[str, int]) -> dict[str, int]:
    """Most views and timesteps that the model sees at once."""
    if arguments.windows == "whole":
        return counts
    return {axis: min(count, getattr(config, axis)) for axis, count in counts.items()}


def _check_apart(out: Path, paths: dict[str, Path]) -> None:
    """No input may be replaced, and no picture may be added to a folder of input images."""
    with user_errors(OSError, RuntimeError, prefix="argument --out"):
        written = {(out / name).resolve() for name in _NAMES} | {out.resolve()}
        for name, source in paths.items():
            if source.resolve() in written:
                raise UserError(f"argument --out: {out} is or replaces the input {name} ({source}); choose another")


def _read_inputs(paths: dict[str, Path], counts: dict[str, int], size: tuple[int, int]) -> dict[str, Input]:
    frames = {"fixed_view": counts["times"], "freeze_time": counts["views"]}
    inputs = {name: _read_input(source, frames[name], size) for name, source in paths.items()}
    sizes = {f"{clip.record['width']}x{clip.record['height']}" for clip in inputs.values()}
    for name, clip in inputs.items():
        record = clip.record
        if len(sizes) > 1:
            record["notes"].append("the frame sizes of the two videos differ; each was fitted by itself")
        rate = f" at {record['fps']:g} fps" if record["fps"] else ""
        print(f"{name}: {record['path']}: {record['frames']} frames of {record['width']}x{record['height']}{rate}")
        for note in record["notes"]:
            print(f"  {note}")
    return inputs


def _read_input(source: Path, count: int, size: tuple[int, int]) -> Input:
    with user_errors(VideoError):
        clip = read_video(source, evenly=count)
        frames, notes = fit_clip(clip, count, size)
    record = {
        "path": str(source.resolve()),
        "frames": clip.source_frames,
        "height": clip.frames.shape[1],
        "width": clip.frames.shape[2],
        "fps": clip.source_fps,
        "notes": [*clip.notes, *notes],
    }
    return Input(frames, record)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 4)


def _caption(arguments: Namespace, paths: dict[str, Path]) -> str:
    names = " and ".join(source.name for source in paths.values())
    return f"from {names}; {arguments.steps} {arguments.sampler} steps, seed {arguments.seed}"


def _record(arguments: Namespace, pipeline: GridPipeline, inputs, counts, backends, notes, seconds) -> dict:
    folder = bundled_path() if arguments.model == BUNDLED else Path(arguments.model)
    return {
        "inputs": {name: clip.record for name, clip in inputs.items()},
        "notes": notes,
        "settings": {
            "model": arguments.model,
            "model_path": str(folder.resolve()),
            "config": pipeline.model.config.to_dict(),
            **counts,
            "windows": arguments.windows,
            "steps": arguments.steps,
            "sampler": arguments.sampler,
            "seed": arguments.seed,
            "device": str(pipeline.device),
            "backend": arguments.backend,
            "operator_backends": backends,
            "threads": torch.get_num_threads(),
        },
        "versions": versions(),
        "seconds": seconds,
    }
