"""Bad input to the command line: one line on stderr, exit status 2, nothing written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fourreal_kernels.cli import main
from fourreal_kernels.data.dataset import render_shard
from fourreal_kernels.data.video import write_video
from fourreal_kernels.model import save_model
from fourreal_kernels.training.config import bundled_recipes, load_recipe


@pytest.fixture(scope="session")
def world(tmp_path_factory, clips, tiny_model, make_model, moving_square) -> Path:
    """A folder of everything that can be wrong, beside a good model and good clips."""
    root = tmp_path_factory.mktemp("world")
    for source in (tiny_model, clips):
        for entry in [*source.glob("*.mp4"), *source.glob("*.json"), *source.glob("*.safetensors")]:
            target = root / ("model" if source == tiny_model else "clips") / entry.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(entry.read_bytes())
    _bad_clips(root, moving_square)
    _bad_models(root, make_model)
    _bad_recipes(root)
    render_shard(root / "held_out" / "a.safetensors", [900_000], size=16, views=3, times=3, allow_held_out=True)
    render_shard(root / "small" / "a.safetensors", range(1), size=16, views=3, times=3)
    (root / "shard").mkdir()
    (root / "shard" / "a.safetensors").write_bytes((root / "model" / "model.safetensors").read_bytes())
    (root / "blocked").mkdir()
    (root / "blocked" / "grid.npz").mkdir()
    (root / "run").mkdir()
    (root / "run" / "state.safetensors").write_bytes(b"")
    (root / "run" / "recipe.json").write_text("{}")
    return root


def _bad_clips(root: Path, moving_square) -> None:
    (root / "text.mp4").write_text("not a video\n" * 100)
    (root / "empty.mp4").write_bytes(b"")
    (root / "sound.wav").write_bytes(b"RIFF")
    (root / "cut.mp4").write_bytes((root / "clips" / "long.mp4").read_bytes()[:700])
    (root / "no_images").mkdir()
    write_video(root / "one_frame.mp4", moving_square(1, 16, 16))
    write_video(root / "two_frames.gif", moving_square(2, 16, 16))
    write_video(root / "narrow", moving_square(3, 16, 4))
    write_video(root / "images", moving_square(3, 16, 16))
    write_video(root / "other", moving_square(1, 20, 16))
    write_video(root / "sizes", moving_square(2, 16, 16))
    (root / "other" / "0000.png").rename(root / "sizes" / "0009.png")


def _bad_models(root: Path, make_model) -> None:
    model = make_model()
    good = root / "model"
    weights = (good / "model.safetensors").read_bytes()
    config = json.loads((good / "config.json").read_text())
    changes = {
        "truncated": (weights[: len(weights) // 2], config),
        "unknown_keys": (weights, config | {"colour": "red"}),
        "wrong_type": (weights, config | {"mlp_ratio": "4"}),
        "not_fitting": (weights, config | {"depth": 2}),
        "no_weights": (None, config),
        "no_config": (weights, None),
        "list_config": (weights, [1, 2]),
        "single_view": (None, config),
    }
    for name, (data, settings) in changes.items():
        (root / name).mkdir()
        if data is not None:
            (root / name / "model.safetensors").write_bytes(data)
        if settings is not None:
            (root / name / "config.json").write_text(json.dumps(settings))
    save_model(make_model(replace(model.config, views=1)), root / "single_view")
    with torch.no_grad():
        model.embed.conv.bias[0] = torch.nan
    save_model(model, root / "nan")


def _bad_recipes(root: Path) -> None:
    recipe = load_recipe("bundled").to_dict()
    phase = recipe["phases"][0]
    recipes = {
        "recipe_list.json": [],
        "recipe_without_phases.json": {"model": {}, "phases": []},
        "recipe_unknown_key.json": recipe | {"speed": 3},
        "recipe_text_rate.json": recipe | {"learning_rate": "fast"},
        "recipe_empty_batch.json": recipe | {"phases": [phase | {"batch": 0}]},
        "recipe_sync_of_one_stream.json": recipe
        | {"model": recipe["model"] | {"mode": "fused"}, "phases": [phase | {"trainable": "sync"}]},
    }
    for name, content in recipes.items():
        (root / name).write_text(json.dumps(content))
    (root / "recipe_syntax.json").write_text("{")


# The arguments of each case, and a part of its message. W is the folder of `world`, OUT a folder that does not exist.
GENERATE = "generate --model W/model --out OUT"
CLIPS = "--fixed-view W/clips/fixed.mp4 --freeze-time W/clips/freeze.mp4"
MODEL = f"generate {CLIPS} --out OUT --model"
TRAIN = "train --out OUT --steps 1"
CASES = {
    "no command": ("", "required: COMMAND"),
    "unknown command": ("paint", "invalid choice: 'paint'"),
    "unknown option": ("doctor --colour", "unrecognized arguments: --colour"),
    "abbreviated option": ("render --see 1 --out OUT", "required: --seed"),
    "render without out": ("render --seed 1", "required: --out"),
    "render with empty out": ("render --seed 1 --out ''", "expected a path"),
    "render negative seed": ("render --seed -1 --out OUT", "--seed: got '-1'"),
    "render huge seed": ("render --seed 9223372036854775808 --out OUT", "--seed"),
    "render seed text": ("render --seed one --out OUT", "--seed: got 'one'"),
    "render no views": ("render --seed 1 --views 0 --out OUT", "--views: got '0'"),
    "render fraction of a timestep": ("render --seed 1 --times 1.5 --out OUT", "--times: got '1.5'"),
    "render odd size": ("render --seed 1 --size 63 --out OUT", "a multiple of 8"),
    "render no size": ("render --seed 1 --size 0 --out OUT", "--size: got '0'"),
    "render too much": ("render --seed 1 --size 8192 --views 64 --out OUT", "expected at most"),
    "render unknown family": ("render --seed 1 --family odd --out OUT", "invalid choice: 'odd'"),
    "render below a file": ("render --seed 1 --out W/text.mp4/out", "it is a file"),
    "render into proc": ("render --seed 1 --out /proc/out", "argument --out"),
    "render over a folder": ("render --seed 1 --out W/blocked", "is a folder"),
    "generate below a file": (f"{GENERATE[:-3]} W/text.mp4 {CLIPS}", "it is a file"),
    "generate one view": (f"{GENERATE} {CLIPS} --views 1", "--views: got '1', expected an integer from 2 to 64"),
    "generate too many views": (f"{GENERATE} {CLIPS} --views 4", "at least 4 frames"),
    "unknown windows": (f"{GENERATE} {CLIPS} --windows odd", "invalid choice: 'odd'"),
    "missing file": (f"{GENERATE} --fixed-view W/absent.mp4 --freeze-time W/clips/freeze.mp4", "no such file"),
    "missing freeze time": (f"{GENERATE} --freeze-time W/absent.mp4 --fixed-view W/clips/fixed.mp4", "no such file"),
    "text renamed": (f"{GENERATE} --fixed-view W/text.mp4 --freeze-time W/clips/freeze.mp4", "not a video"),
    "empty file": (f"{GENERATE} --fixed-view W/empty.mp4 --freeze-time W/clips/freeze.mp4", "the file is empty"),
    "sound": (f"{GENERATE} --fixed-view W/sound.wav --freeze-time W/clips/freeze.mp4", "unsupported"),
    "cut off": (f"{GENERATE} --fixed-view W/cut.mp4 --freeze-time W/clips/freeze.mp4", "cut.mp4"),
    "one frame": (f"{GENERATE} --fixed-view W/one_frame.mp4 --freeze-time W/clips/freeze.mp4", "at least 3 frames"),
    "two frames": (f"{GENERATE} --freeze-time W/two_frames.gif --fixed-view W/clips/fixed.mp4", "at least 3 frames"),
    "single image": (f"{GENERATE} --freeze-time W/images/0000.png --fixed-view W/clips/fixed.mp4", "a single image"),
    "sizes that differ": (f"{GENERATE} --freeze-time W/sizes --fixed-view W/clips/fixed.mp4", "0009.png) is 16x20"),
    "empty folder": (f"{GENERATE} --freeze-time W/no_images --fixed-view W/clips/fixed.mp4", "an empty folder"),
    "narrow frames": (f"{GENERATE} --freeze-time W/narrow --fixed-view W/clips/fixed.mp4", "at least 8 pixels"),
    "out is the input": (
        "generate --model W/model --out W/images --fixed-view W/images --freeze-time W/clips/fixed.mp4",
        "replaces the input fixed_view",
    ),
    "no steps": (f"{GENERATE} {CLIPS} --steps 0", "--steps: got '0'"),
    "negative steps": (f"{GENERATE} {CLIPS} --steps -4", "--steps: got '-4'"),
    "steps text": (f"{GENERATE} {CLIPS} --steps four", "--steps: got 'four'"),
    "steps NaN": (f"{GENERATE} {CLIPS} --steps nan", "--steps: got 'nan'"),
    "seed text": (f"{GENERATE} {CLIPS} --seed x", "--seed: got 'x'"),
    "unknown sampler": (f"{GENERATE} {CLIPS} --sampler rk4", "invalid choice: 'rk4'"),
    "unknown device": (f"{GENERATE} {CLIPS} --device tpu", "--device: got 'tpu'"),
    "absent device": (f"{GENERATE} {CLIPS} --device cuda:99", "cuda:99 is not available"),
    "device without data": (f"{GENERATE} {CLIPS} --device meta", "--device: got 'meta'"),
    "unknown backend": (f"{GENERATE} {CLIPS} --backend fast", "invalid choice: 'fast'"),
    "unknown model": (f"{MODEL} huge", "neither 'bundled' nor a directory"),
    "model without files": (f"{MODEL} W/no_images", "config.json is missing"),
    "model without weights": (f"{MODEL} W/no_weights", "model.safetensors is missing"),
    "model without config": (f"{MODEL} W/no_config", "config.json is missing"),
    "truncated weights": (f"{MODEL} W/truncated", "truncated or not a safetensors file"),
    "config with unknown keys": (f"{MODEL} W/unknown_keys", "unknown settings colour"),
    "config of another type": (f"{MODEL} W/wrong_type", "mlp_ratio: got '4'"),
    "config that is a list": (f"{MODEL} W/list_config", "not a valid configuration"),
    "weights that do not fit": (f"{MODEL} W/not_fitting", "do not fit its config.json"),
    "weights of NaN": (f"{MODEL} W/nan", "NaN"),
    "model of one view": (f"{MODEL} W/single_view", "expected 2 x 2"),
    "train without out": ("train --steps 1", "required: --out"),
    "train without length": ("train --out OUT", "--steps or --minutes"),
    "train of two lengths": (f"{TRAIN} --minutes 1", "not allowed with"),
    "train no steps": ("train --out OUT --steps 0", "--steps: got '0'"),
    "train no minutes": ("train --out OUT --minutes 0", "--minutes: got '0'"),
    "train NaN minutes": ("train --out OUT --minutes nan", "--minutes: got 'nan'"),
    "train unknown recipe": (f"{TRAIN} --recipe best", "'best'"),
    "train syntax": (f"{TRAIN} --recipe W/recipe_syntax.json", "malformed"),
    "train list recipe": (f"{TRAIN} --recipe W/recipe_list.json", "recipe"),
    "train no phases": (f"{TRAIN} --recipe W/recipe_without_phases.json", "phases: got none"),
    "train unknown key": (f"{TRAIN} --recipe W/recipe_unknown_key.json", "speed"),
    "train text rate": (f"{TRAIN} --recipe W/recipe_text_rate.json", "learning_rate: got 'fast'"),
    "train empty batch": (f"{TRAIN} --recipe W/recipe_empty_batch.json", "phases[0].batch: got 0"),
    "train sync of one stream": (f"{TRAIN} --recipe W/recipe_sync_of_one_stream.json", "no synchronisation"),
    "train without scenes": (f"{TRAIN} --scenes 0", "expected more than 4"),
    "train on few scenes": (f"{TRAIN} --scenes 4", "expected more than 4"),
    "train on all seeds": (f"{TRAIN} --scenes 900001", "--scenes: got '900001'"),
    "train on held-out scenes": (f"{TRAIN} --data W/held_out", "held-out seed 900000"),
    "train on other sizes": (f"{TRAIN} --data W/small", "the recipe expects"),
    "train on other files": (f"{TRAIN} --data W/shard", "not a shard of rendered grids"),
    "train on a file": (f"{TRAIN} --data W/text.mp4", "it is a file"),
    "train from no model": (f"{TRAIN} --init W/truncated", "--init: model"),
    "train into another run": ("train --out W/run --steps 1", "another recipe"),
    "train below a file": ("train --out W/text.mp4/out --steps 1", "it is a file"),
    "train on scenes of two kinds": (f"{TRAIN} --pool 8 --scenes 8", "--pool: not allowed with --data and --scenes"),
    "train reusing files": (f"{TRAIN} --reuse 5", "--reuse: it is of scenes that are rendered while training"),
    "train without reusing": (f"{TRAIN} --pool 8 --reuse 0.5", "--reuse: uses: got 0.5, expected at least 1"),
    "train saving always": (f"{TRAIN} --save-minutes 0", "--save-minutes: got '0'"),
    "train on no device": (f"{TRAIN} --device abacus", "--device: got 'abacus'"),
    "evaluate no scenes": ("evaluate --model W/model --out OUT --scenes 0", "--scenes: got '0'"),
    "evaluate too many scenes": ("evaluate --model W/model --out OUT --scenes 1001", "--scenes: got '1001'"),
    "evaluate unknown model": ("evaluate --model none --out OUT", "neither 'bundled'"),
    "evaluate trained scene": ("evaluate --model W/model --out OUT --show 7", "--show: got '7'"),
    "evaluate without a folder": ("evaluate --model W/model", "required: --out"),
    "evaluate few corruptions": ("evaluate --corruptions --scenes 3 --out OUT", "--scenes: got 3, expected at least 4"),
    "evaluate unknown extractor": ("evaluate --out OUT --extractor fvd", "--extractor: invalid choice"),
    "evaluate without weights": ("evaluate --out OUT --extractor clip --weights W", "CLIP ViT-L/14: no weights at"),
    "evaluate bad checksum": ("evaluate --out OUT --weights-sha256 clip=12", "64 hexadecimal digits"),
    "evaluate spare checksum": (f"evaluate --out OUT --weights-sha256 clip={'0' * 64}", "not asked for by --extractor"),
    "evaluate below a file": ("evaluate --model W/model --out W/text.mp4", "it is a file"),
}


def _arguments(text: str, world: Path, out: Path) -> list[str]:
    parts = ("" if part == "''" else part for part in text.split())
    return [str(out) if part == "OUT" else part.replace("W/", f"{world}/", 1) for part in parts]


def _listing(*folders: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.lstat().st_size) for folder in folders for path in folder.rglob("*"))


def _check_message(stderr: str, expected: str) -> None:
    assert stderr.startswith("fourreal: "), stderr
    assert stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    assert expected in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, world, tmp_path, capsys):
    text, expected = CASES[name]
    before = _listing(world, tmp_path)
    status = main(_arguments(text, world, tmp_path / "out"))
    captured = capsys.readouterr()
    assert status == 2
    _check_message(captured.err, expected)
    assert captured.out == ""
    assert _listing(world, tmp_path) == before


@pytest.mark.parametrize("name", ["text renamed", "weights that do not fit", "no steps"])
def test_bad_input_of_a_process(name, world, tmp_path, run_process):
    text, expected = CASES[name]
    before = _listing(world, tmp_path)
    result = run_process(*_arguments(text, world, tmp_path / "out"))
    assert result.returncode == 2
    _check_message(result.stderr, expected)
    assert result.stdout == ""
    assert _listing(world, tmp_path) == before


@pytest.mark.parametrize("backend", ["triton", "cuda", "cpu"])
def test_backend_that_cannot_run_the_model(backend, world, tmp_path, capsys):
    """Whichever backends are built, the outcome is a grid, or one line and nothing written."""
    status = main(_arguments(f"{GENERATE} {CLIPS} --steps 1 --backend {backend}", world, tmp_path / "out"))
    captured = capsys.readouterr()
    if status == 0:
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert backend in record["settings"]["operator_backends"].values()
    else:
        assert status == 2
        _check_message(captured.err, "argument --backend")
        assert not (tmp_path / "out").exists()


def test_out_that_is_a_dangling_link(tmp_path, capsys):
    (tmp_path / "out").symlink_to(tmp_path / "absent")
    assert main(["render", "--seed", "1", "--out", str(tmp_path / "out")]) == 2
    _check_message(capsys.readouterr().err, "does not exist")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_missing_package(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert main(["generate", "--out", str(tmp_path / "out")]) == 2
    _check_message(capsys.readouterr().err, 'pip install "fourreal-kernels[generate]"')
    assert list(tmp_path.iterdir()) == []


def test_interrupt_leaves_nothing(monkeypatch, world, tmp_path, capsys):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("fourreal_kernels.data.grid_files.write_viewer", interrupted)
    assert main(_arguments(f"{GENERATE} {CLIPS} --steps 1", world, tmp_path / "out")) == 130
    assert capsys.readouterr().err.endswith("fourreal: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_program_are_not_hidden(monkeypatch, world, tmp_path):
    def broken(*_args, **_kwargs):
        raise ValueError("a mistake of the program")

    monkeypatch.setattr("fourreal_kernels.model.pipeline.sample", broken)
    with pytest.raises(ValueError, match="a mistake of the program"):
        main(_arguments(f"{GENERATE} {CLIPS}", world, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_bundled_recipes_pass_the_checks():
    from fourreal_kernels.cli.train_inputs import check_recipe

    for name in bundled_recipes():
        assert check_recipe(name) == load_recipe(name)
