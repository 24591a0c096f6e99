"""Measure a model on held-out scenes, beside trivial predictions."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, Namespace
from pathlib import Path

from torch import Tensor

from ..data import HELD_OUT_SEED
from ..data.contact_sheet import comparison_sheet
from ..data.staging import staged_folder
from ..data.video import VideoError
from ..evaluation.evaluate import evaluate, held_out_grid, table
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
from .environment import versions
from .errors import UserError, user_errors

_NAMES = ("metrics.json", "table.md", "comparison.png")
_MOST_SCENES = 1000
# The window of SSIM.
_LEAST_SIDE = 11


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``fourreal evaluate``."""
    add_model(parser)
    add_out(parser)
    parser.add_argument(
        "--scenes", type=integer(1, _MOST_SCENES), default=32, metavar="N",
        help=f"number of scenes, seeds {HELD_OUT_SEED} and following (default: 32)",
    )
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0], help=f"default: {FAMILIES[0]}")
    parser.add_argument(
        "--show", type=integer(HELD_OUT_SEED, LARGEST_SEED), default=HELD_OUT_SEED, metavar="SEED",
        help=f"the held-out scene of comparison.png (default: {HELD_OUT_SEED})",
    )


def run(arguments: Namespace) -> None:
    """Write ``metrics.json``, ``table.md`` and ``comparison.png`` into ``--out`` and print the table."""
    check_packages(("PIL", "safetensors", "tqdm"))
    check_output(arguments.out, _NAMES)
    pipeline = load_pipeline(arguments)
    config = pipeline.model.config
    if min(config.views, config.times) < 2 or min(config.height, config.width) < _LEAST_SIDE:
        raise UserError(
            f"argument --model: it makes {config.views} x {config.times} frames of {config.width}x{config.height}, "
            f"expected at least 2 x 2 of {_LEAST_SIDE}x{_LEAST_SIDE}"
        )
    backends = chosen_backends(pipeline.model, config.views, config.times, arguments.backend)
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + arguments.scenes)
    options = {"steps": arguments.steps, "sampler": arguments.sampler}
    with backend_context(arguments.backend):
        result = evaluate(pipeline, seeds, family=arguments.family, **options)
        grids = _shown_grids(pipeline, arguments.show, arguments.family, options)
    result["settings"] |= {
        "model": arguments.model,
        "config": config.to_dict(),
        "device": str(pipeline.device),
        "backend": arguments.backend,
        "operator_backends": backends,
    }
    result["versions"] = versions()
    text = table(result)
    with user_errors(OSError, VideoError), staged_folder(arguments.out) as stage:
        _write(stage, result, text, grids)
    print(text)
    for name in _NAMES:
        print(f"wrote {arguments.out / name}")


def _shown_grids(pipeline: GridPipeline, seed: int, family: str, options: dict) -> dict[str, Tensor]:
    config = pipeline.model.config
    truth = held_out_grid(seed, config.views, config.times, config.height, config.width, family)
    video = pipeline(truth[0], truth[:, 0], seed=0, progress=False, **options)
    return {"generated": video.frames, "truth": truth}


def _write(folder: Path, result: dict, text: str, grids: dict[str, Tensor]) -> None:
    document = json.dumps(_without_nan(result), indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(document + "\n")
    (folder / "table.md").write_text(text + "\n")
    given = {"generated": cross_mask(*grids["generated"].shape[:2])}
    comparison_sheet(grids, given=given).save(folder / "comparison.png")


def _without_nan(value):
    """JSON has no NaN: a metric without pixels to measure becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
