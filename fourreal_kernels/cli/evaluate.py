"""Measure a model on held-out scenes, beside trivial predictions."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..data import HELD_OUT_SEED
from ..data.contact_sheet import comparison_sheet
from ..data.staging import staged_folder
from ..data.video import VideoError
from ..evaluation.corruption_table import corruption_markdown
from ..evaluation.evaluate import evaluate, table
from ..evaluation.extractors import Extractor, Handcrafted
from ..evaluation.held_out import held_out_grid
from ..evaluation.plots import consistency_plot, corruption_plot, scene_plot
from ..evaluation.report import further_tables
from ..model.conditioning import cross_mask
from ..model.pipeline import GridPipeline
from .arguments import (
    FAMILIES,
    LARGEST_SEED,
    add_model,
    add_out,
    check_output,
    check_packages,
    integer,
    load_pipeline,
)
from .backends import backend_context, chosen_backends
from .corruptions import measure_corruptions
from .environment import versions
from .errors import UserError, user_errors
from .extractors import add_extractors, extractor_list, load_extractors

if TYPE_CHECKING:
    from PIL.Image import Image

_NAMES = ("metrics.json", "table.md", "scenes.png", "consistency.png")
_CORRUPTION_NAMES = ("corruptions.json", "corruptions.md", "corruptions.png")
_METRICS = ("image", "geometry", "frechet")
_MOST_SCENES = 1000
# The window of SSIM.
_LEAST_SIDE = 11


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``fourreal evaluate``."""
    add_model(parser)
    add_out(parser, required=False)
    parser.add_argument(
        "--scenes", type=integer(1, _MOST_SCENES), default=32, metavar="N",
        help=f"number of scenes, seeds {HELD_OUT_SEED} and following (default: 32)",
    )
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0], help=f"default: {FAMILIES[0]}")
    parser.add_argument(
        "--show", type=integer(HELD_OUT_SEED, LARGEST_SEED), nargs="+", default=[HELD_OUT_SEED], metavar="SEED",
        help=f"held-out scenes to draw beside the truth, as comparison-SEED.png (default: {HELD_OUT_SEED})",
    )
    parser.add_argument(
        "--metrics", nargs="+", choices=_METRICS, default=_METRICS, metavar="M",
        help="image (always), geometry (known cameras and motion), frechet (handcrafted statistics; 2 scenes or more); "
        "default: all",
    )
    parser.add_argument(
        "--corruptions", action="store_true",
        help="measure corrupted true grids of 8 x 8 frames of 64x64 instead of a model: which metric notices what",
    )
    add_extractors(parser)


def run(arguments: Namespace) -> None:
    """Measure a model, or with ``--corruptions`` the metrics themselves, and write tables, JSON and plots."""
    if arguments.list_extractors:
        print(extractor_list(arguments))
        return
    if arguments.out is None:
        raise UserError("the following arguments are required: --out (see `fourreal evaluate --help`)")
    check_packages(("PIL", "safetensors", "tqdm"))
    shown = [_sheet_name(seed) for seed in arguments.show]
    check_output(arguments.out, _CORRUPTION_NAMES if arguments.corruptions else (*_NAMES, *shown))
    if arguments.corruptions:
        _run_corruptions(arguments)
    else:
        _run_model(arguments)


def _run_corruptions(arguments: Namespace) -> None:
    extractors = load_extractors(arguments)
    result = measure_corruptions(arguments.scenes, arguments.family, [Handcrafted(), *extractors])
    result["versions"] = versions()
    text = corruption_markdown(result)
    with user_errors(OSError, VideoError), staged_folder(arguments.out) as stage:
        _write_json(stage / "corruptions.json", result)
        (stage / "corruptions.md").write_text(text + "\n")
        for name, picture in corruption_plot(result).items():
            picture.save(stage / name)
    _report(arguments.out, text, _CORRUPTION_NAMES)


def _run_model(arguments: Namespace) -> None:
    pipeline = load_pipeline(arguments)
    extractors = load_extractors(arguments)
    config = pipeline.model.config
    if min(config.views, config.times) < 2 or min(config.height, config.width) < _LEAST_SIDE:
        raise UserError(
            f"argument --model: it makes {config.views} x {config.times} frames of {config.width}x{config.height}, "
            f"expected at least 2 x 2 of {_LEAST_SIDE}x{_LEAST_SIDE}"
        )
    backends = chosen_backends(pipeline.model, config.views, config.times, arguments.backend)
    result, sheets = _measure(pipeline, arguments, extractors)
    result["settings"] |= {
        "model": arguments.model,
        "config": config.to_dict(),
        "device": str(pipeline.device),
        "backend": arguments.backend,
        "operator_backends": backends,
    }
    result["versions"] = versions()
    text = f"{table(result)}\n\n{further_tables(result)}"
    with user_errors(OSError, VideoError), staged_folder(arguments.out) as stage:
        written = _write(stage, result, text, sheets)
    _report(arguments.out, text, written)


def _measure(pipeline: GridPipeline, arguments: Namespace, extractors: list[Extractor]):
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + arguments.scenes)
    options = {"steps": arguments.steps, "sampler": arguments.sampler}
    chosen = [Handcrafted(), *extractors] if "frechet" in arguments.metrics else extractors
    with backend_context(arguments.backend):
        result = evaluate(
            pipeline, seeds, family=arguments.family, geometry="geometry" in arguments.metrics, extractors=chosen,
            **options,
        )  # fmt: skip
        sheets = {
            _sheet_name(seed): comparison_sheet(
                _shown_grids(pipeline, seed, arguments.family, options),
                given={"generated": cross_mask(pipeline.model.config.views, pipeline.model.config.times)},
            )
            for seed in arguments.show
        }
        return result, sheets


def _sheet_name(seed: int) -> str:
    return f"comparison-{seed}.png"


def _report(folder: Path, text: str, names) -> None:
    print(text)
    for name in names:
        print(f"wrote {folder / name}")


def _shown_grids(pipeline: GridPipeline, seed: int, family: str, options: dict) -> dict[str, Tensor]:
    config = pipeline.model.config
    truth = held_out_grid(seed, config.views, config.times, config.height, config.width, family)
    video = pipeline(truth[0], truth[:, 0], seed=0, progress=False, **options)
    return {"generated": video.frames, "truth": truth}


def _write(folder: Path, result: dict, text: str, sheets: dict[str, Image]) -> list[str]:
    """Write the files and return their names; ``consistency.png`` only where something of it was measured."""
    _write_json(folder / "metrics.json", result)
    (folder / "table.md").write_text(text + "\n")
    pictures = sheets | scene_plot(result) | consistency_plot(result)
    for name, picture in pictures.items():
        picture.save(folder / name)
    return ["metrics.json", "table.md", *pictures]


def _write_json(path: Path, result: dict) -> None:
    path.write_text(json.dumps(_without_nan(result), indent=2, allow_nan=False) + "\n")


def _without_nan(value):
    """JSON has no NaN: a metric without pixels to measure becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
