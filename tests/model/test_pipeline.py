"""GridPipeline: what it returns, what it repeats exactly, and what it refuses."""

import sys

import pytest
import torch

from fourreal_kernels.model import GridPipeline, cross_mask
from fourreal_kernels.model.config import MODES
from tiny_models import random_masks, random_model

VIEWS, TIMES, SIZE = 3, 4, (3, 8, 12)


@pytest.fixture(scope="module")
def pipeline():
    return GridPipeline(random_model())


def _clips(views=VIEWS, times=TIMES):
    """A fixed-view and a freeze-time video that share their first frame, of values that [-1, 1] cannot hold exactly."""
    fixed_view, freeze_time = torch.rand(times, *SIZE) ** 3, torch.rand(views, *SIZE) ** 3
    freeze_time[0] = fixed_view[0]
    return fixed_view, freeze_time


def _generate(pipeline, *clips, **options):
    return pipeline(*clips, **{"steps": 2, "progress": False} | options)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_generates(mode, sampler):
    fixed_view, freeze_time = _clips()
    video = _generate(GridPipeline(random_model(mode=mode)), fixed_view, freeze_time, sampler=sampler)
    assert video.frames.shape == (VIEWS, TIMES, *SIZE) and video.frames.dtype == torch.float32
    assert video.frames.min() >= 0 and video.frames.max() <= 1 and not video.frames.requires_grad
    assert torch.equal(video.frames[0], fixed_view) and torch.equal(video.frames[:, 0], freeze_time)
    assert torch.equal(video.given, cross_mask(VIEWS, TIMES))
    assert video.notes == [] and video.seconds["generate"] > 0
    assert video.frames[1:, 1:].std() > 0.05


def test_predictions_outside_the_range_are_clamped(pipeline):
    """The random model predicts far outside [-1, 1], so the test above can fail."""
    frames = torch.rand(1, VIEWS, TIMES, *SIZE) * 2 - 1
    predicted = pipeline.model(frames, cross_mask(VIEWS, TIMES)[None], torch.ones(1)).frames
    assert predicted.abs().max() > 1.5


def test_the_seed_decides_the_result(pipeline):
    clips = _clips()
    first, again, other = (_generate(pipeline, *clips, seed=seed).frames for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(123)
    assert torch.equal(_generate(pipeline, *clips, seed=3).frames, first), "the global generator must not matter"


def test_one_step_is_the_model_s_answer_from_pure_noise(pipeline):
    fixed_view, freeze_time = _clips()
    given = cross_mask(VIEWS, TIMES)
    frames = torch.zeros(VIEWS, TIMES, *SIZE)
    frames[0], frames[:, 0] = fixed_view, freeze_time
    noise = torch.randn(1, *frames.shape, generator=torch.Generator().manual_seed(5))
    x = torch.where(given[..., None, None, None], frames * 2 - 1, noise)
    with torch.no_grad():
        answer = pipeline.model(x, given[None], torch.ones(1)).frames[0].clamp(-1, 1) / 2 + 0.5
    video = _generate(pipeline, fixed_view, freeze_time, steps=1, seed=5)
    torch.testing.assert_close(video.frames[~given], answer[~given], atol=1e-5, rtol=0)


def test_inputs_are_not_modified(pipeline):
    clips = _clips()
    kept = [clip.clone() for clip in clips]
    _generate(pipeline, *clips)
    assert all(torch.equal(clip, before) for clip, before in zip(clips, kept, strict=True))


def test_first_frames_that_differ_are_noted(pipeline):
    fixed_view, freeze_time = _clips()
    freeze_time[0] = (fixed_view[0] + 0.5) % 1
    video = _generate(pipeline, fixed_view, freeze_time)
    assert torch.equal(video.frames[0], fixed_view) and torch.equal(video.frames[1:, 0], freeze_time[1:])
    assert len(video.notes) == 1
    assert "first frames of the two videos differ by 0.5" in video.notes[0] and "fixed-view" in video.notes[0]


def test_first_frames_that_differ_by_compression_are_not_noted(pipeline):
    fixed_view, freeze_time = _clips()
    freeze_time[0] = (fixed_view[0] + 0.005).clamp(0, 1)
    assert _generate(pipeline, fixed_view, freeze_time).notes == []


@pytest.mark.parametrize(
    ("views", "times", "how"),
    [
        (2, 2, ""),
        (5, 4, ": generated in 2 windows (cross) of at most 3 and 4"),
        (2, 8, ": generated in 3 windows (cross) of at most 2 and 4"),
    ],
)
def test_other_grids_than_the_trained_one_are_noted(pipeline, views, times, how):
    video = _generate(pipeline, *_clips(views, times))
    assert video.frames.shape[:2] == (views, times)
    trained = f"the model was trained on {VIEWS} and {TIMES}"
    assert video.notes == [f"the grid has {views} views and {times} timesteps; {trained}{how}"]


def test_one_video_alone(pipeline):
    fixed_view, freeze_time = _clips()
    from_views = _generate(pipeline, None, freeze_time)
    assert from_views.frames.shape[:2] == (VIEWS, TIMES) and torch.equal(from_views.frames[:, 0], freeze_time)
    assert from_views.given.sum() == VIEWS and "no fixed-view video" in from_views.notes[0]
    from_times = _generate(pipeline, fixed_view, views=2)
    assert from_times.frames.shape[:2] == (2, TIMES) and torch.equal(from_times.frames[0], fixed_view)
    assert from_times.given.sum() == TIMES and "no freeze-time video" in from_times.notes[0]
    with pytest.raises(ValueError, match="^fixed_view, freeze_time: got None for both"):
        _generate(pipeline)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": VIEWS + 1}, f"^views: got {VIEWS + 1}, but freeze_time has {VIEWS} frames"),
        ({"times": 1}, "^times: got 1, expected an integer of at least 2"),
        ({"windows": "diagonal"}, "^windows: got 'diagonal', expected one of cross, sliding, whole"),
    ],
)
def test_bad_sizes_are_named(pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        _generate(pipeline, *_clips(), **options)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("density", [0.05, 0.5, 1.1])
def test_complete_takes_any_mask_and_reads_given_frames_only(pipeline, density, seed):
    given = torch.rand(VIEWS, TIMES, generator=torch.Generator().manual_seed(seed)) < density
    given[seed, seed] = True
    frames = torch.rand(VIEWS, TIMES, *SIZE) ** 3
    hidden = torch.where(given[..., None, None, None], frames, float("nan"))
    video = pipeline.complete(hidden, given, steps=2, progress=False)
    assert video.frames.isfinite().all() and video.frames.min() >= 0 and video.frames.max() <= 1
    assert torch.equal(video.frames[given], frames[given]) and torch.equal(video.given, given)
    same = pipeline.complete(frames, given, steps=2, progress=False)
    assert torch.equal(same.frames, video.frames)


def test_the_cross_is_one_case_of_complete(pipeline):
    fixed_view, freeze_time = _clips()
    frames = torch.rand(VIEWS, TIMES, *SIZE)
    frames[0], frames[:, 0] = fixed_view, freeze_time
    completed = pipeline.complete(frames, cross_mask(VIEWS, TIMES), steps=2, progress=False)
    assert torch.equal(completed.frames, _generate(pipeline, fixed_view, freeze_time).frames)


def _with(clip, value):
    clip = clip.clone()
    clip[1, 0, 0, 0] = value
    return clip


_SHAPE = r"got shape .*, expected \(frames, 3, 8, 12\)"
BAD_CLIPS = {
    "NaN": (lambda clip: _with(clip, float("nan")), ValueError, "holds NaN or infinite values"),
    "infinite": (lambda clip: _with(clip, float("inf")), ValueError, "holds NaN or infinite values"),
    "above": (lambda clip: _with(clip, 1.5), ValueError, r"values from .* to 1.5, expected \[0, 1\]"),
    "below": (lambda clip: _with(clip, -0.5), ValueError, r"values from -0.5 to .*, expected \[0, 1\]"),
    "integers": (lambda clip: (clip * 255).to(torch.uint8), TypeError, "got dtype torch.uint8, expected floating"),
    "one frame": (lambda clip: clip[:1], ValueError, r"got shape \(1, 3, 8, 12\), expected .* at least 2 frames"),
    "wrong size": (lambda clip: clip[..., :8], ValueError, _SHAPE),
    "channels last": (lambda clip: clip.permute(0, 2, 3, 1), ValueError, _SHAPE),
    "a batch": (lambda clip: clip[None], ValueError, _SHAPE),
    "no tensor": (lambda clip: clip.tolist(), TypeError, "expected a torch.Tensor, got list"),
}


@pytest.mark.parametrize("name", ["fixed_view", "freeze_time"])
@pytest.mark.parametrize("bad", BAD_CLIPS)
def test_bad_clips_are_named(pipeline, bad, name):
    change, error, message = BAD_CLIPS[bad]
    clips = dict(zip(("fixed_view", "freeze_time"), _clips(), strict=True))
    clips[name] = change(clips[name])
    with pytest.raises(error, match=f"^{name}: .*{message}"):
        pipeline(**clips, steps=1, progress=False)


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("frames", lambda frames, given: (frames[0], given), ValueError),
        ("frames", lambda frames, given: (frames[..., :4], given), ValueError),
        ("frames", lambda frames, given: (_with(frames[:, 0], 2.0)[:, None], given[:, :1] | True), ValueError),
        ("frames", lambda frames, given: (frames.long(), given), TypeError),
        ("frames", lambda frames, given: (frames.numpy(), given), TypeError),
        ("given", lambda frames, given: (frames, given.T), ValueError),
        ("given", lambda frames, given: (frames, given.float()), ValueError),
        ("given", lambda frames, given: (frames, torch.zeros_like(given)), ValueError),
        ("given", lambda frames, given: (frames, given.tolist()), TypeError),
    ],
)
def test_bad_grids_are_named(pipeline, name, change, error):
    frames, given = change(torch.rand(VIEWS, TIMES, *SIZE), random_masks(1)[0])
    with pytest.raises(error, match=f"^{name}: .*"):
        pipeline.complete(frames, given, steps=1, progress=False)


@pytest.mark.parametrize(("option", "value"), [("steps", 0), ("steps", 1.5), ("sampler", "ddim")])
@pytest.mark.parametrize("progress", [True, False])
def test_bad_options_are_named_before_anything_is_shown(pipeline, option, value, progress, capsys):
    with pytest.raises(ValueError, match=f"^{option}: got "):
        pipeline(*_clips(), **{option: value}, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_on_request(pipeline, capsys):
    _generate(pipeline, *_clips(), progress=False)
    assert capsys.readouterr() == ("", "")
    _generate(pipeline, *_clips(), progress=True, steps=3)
    output = capsys.readouterr()
    assert output.out == "" and "generate" in output.err and "3/3" in output.err


def test_without_tqdm_only_the_progress_bar_is_missing(pipeline, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert _generate(pipeline, *_clips(), progress=False).frames.shape[:2] == (VIEWS, TIMES)
    with pytest.raises(ImportError, match=r'tqdm.*pip install "fourreal-kernels\[generate\]"'):
        _generate(pipeline, *_clips(), progress=True)


def test_save_writes_the_grid_for_people_and_programs(pipeline, tmp_path):
    for package in ("av", "PIL"):
        pytest.importorskip(package, reason=f"GridVideo.save needs {package}")
    paths = _generate(pipeline, *_clips(), steps=1).save(tmp_path / "grid")
    names = {"grid.npz", "grid.png", "grid.mp4", "index.html"}
    assert names <= {path.name for path in paths} and all(path.is_file() for path in paths)
